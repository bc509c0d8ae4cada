//! Secrets are read from where they are said to be, and never shown.

use std::os::unix::fs::PermissionsExt;

use lifeboat::{
    config::SecretRef,
    secrets::{Secret, SecretError},
};
use secrecy::{ExposeSecret, SecretString};

use super::Written;

async fn read(reference: SecretRef) -> Result<SecretString, SecretError> {
    Secret::local(reference).read().await
}

#[tokio::test]
async fn a_file_or_command_loses_its_last_newline_only() {
    let folder = crate::support::scratch();
    let file = folder.path().join("secret");
    for (stored, secret) in [("s3cret\n", "s3cret"), ("s3cret", "s3cret"), ("two\n\n", "two\n"), ("crlf\r\n", "crlf")] {
        std::fs::write(&file, stored).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(read(SecretRef::File(file.clone())).await.unwrap().expose_secret(), secret);
        let cat = SecretRef::Command(vec!["/bin/cat".to_owned(), file.display().to_string()]);
        assert_eq!(read(cat).await.unwrap().expose_secret(), secret);
    }
}

#[tokio::test]
async fn what_is_not_there_is_named_and_what_is_empty_refused() {
    let folder = crate::support::scratch();
    let file = folder.path().join("secret");
    assert!(matches!(read(SecretRef::File(file.clone())).await, Err(SecretError::File { .. })));
    std::fs::write(&file, "\n").unwrap();
    let error = read(SecretRef::File(file)).await.unwrap_err();
    assert!(matches!(error, SecretError::Empty(_)), "{error}");
    let error = read(SecretRef::Env("LIFEBOAT_TEST_NOT_SET".to_owned())).await.unwrap_err();
    assert!(error.to_string().contains("LIFEBOAT_TEST_NOT_SET"), "{error}");
    assert!(matches!(read(SecretRef::Command(vec![])).await, Err(SecretError::NoProgram)));
}

#[tokio::test]
async fn a_failed_command_does_not_show_what_it_said() {
    let argv = ["/bin/sh", "-c", "echo hunter2 >&2; echo hunter2; exit 3"].map(str::to_owned).to_vec();
    let error = read(SecretRef::Command(argv)).await.unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("/bin/sh") && !shown.contains("hunter2"), "{shown}");
}

/// The blocks of YAML in `docs/secrets.md`, each with the file that it belongs to.
fn shown() -> Vec<(String, String)> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/secrets.md");
    let page = std::fs::read_to_string(page).unwrap();
    let blocks = page.split("```yaml\n# ").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.map(|block| block.split_once('\n').unwrap()).map(|(file, text)| (file.to_owned(), text.to_owned())).collect()
}

#[test]
fn what_the_page_shows_passes_check() {
    let shown = shown();
    let store = &shown.iter().find(|(_, text)| text.starts_with("secret_stores:")).unwrap().1;
    let mut checked = 0;
    for (file, text) in &shown {
        let written = Written::examples();
        let with = |file: &str, old: &str, new: &str| written.change(file, old, new);
        match file.as_str() {
            "lifeboat.yaml" => with(file, "api:", &format!("{text}api:")),
            "schedules/wallet.yaml" => {
                with("lifeboat.yaml", "api:", &format!("{store}api:"));
                let example = std::fs::read_to_string(written.path(file)).unwrap();
                let login = example.split("\nlogin:").nth(1).unwrap().split_inclusive('\n').next().unwrap();
                with(file, &format!("\nlogin:{login}"), &format!("\n{text}"));
            }
            other => panic!("`{other}` is no file of ours"),
        }
        written.load().unwrap_or_else(|problems| panic!("{text}\n{problems}"));
        checked += 1;
    }
    assert!(checked > 6, "{checked} blocks found");
}
