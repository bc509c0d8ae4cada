//! Secrets are read from where they are said to be, and never shown.

use std::os::unix::fs::PermissionsExt;

use lifeboat::config::{SecretError, SecretRef};
use secrecy::ExposeSecret;

#[tokio::test]
async fn a_file_or_command_loses_its_last_newline_only() {
    let folder = crate::support::scratch();
    let file = folder.path().join("secret");
    for (stored, secret) in [("s3cret\n", "s3cret"), ("s3cret", "s3cret"), ("two\n\n", "two\n"), ("crlf\r\n", "crlf")] {
        std::fs::write(&file, stored).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(SecretRef::File(file.clone()).read().await.unwrap().expose_secret(), secret);
        let cat = SecretRef::Command(vec!["/bin/cat".to_owned(), file.display().to_string()]);
        assert_eq!(cat.read().await.unwrap().expose_secret(), secret);
    }
}

#[tokio::test]
async fn what_is_not_there_is_named_and_what_is_empty_refused() {
    let folder = crate::support::scratch();
    let file = folder.path().join("secret");
    assert!(matches!(SecretRef::File(file.clone()).read().await, Err(SecretError::File { .. })));
    std::fs::write(&file, "\n").unwrap();
    let error = SecretRef::File(file).read().await.unwrap_err();
    assert!(matches!(error, SecretError::Empty(_)), "{error}");
    let error = SecretRef::Env("LIFEBOAT_TEST_NOT_SET".to_owned()).read().await.unwrap_err();
    assert!(error.to_string().contains("LIFEBOAT_TEST_NOT_SET"), "{error}");
    assert!(matches!(SecretRef::Command(vec![]).read().await, Err(SecretError::NoProgram)));
}

#[tokio::test]
async fn a_failed_command_does_not_show_what_it_said() {
    let argv = ["/bin/sh", "-c", "echo hunter2 >&2; echo hunter2; exit 3"].map(str::to_owned).to_vec();
    let error = SecretRef::Command(argv).read().await.unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("/bin/sh") && !shown.contains("hunter2"), "{shown}");
}
