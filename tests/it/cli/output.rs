//! What is printed may go nowhere: a reader that stopped early, a full disk.

use std::process::Stdio;

use super::site::{Site, finished};

/// Both ends of a pipe of which nobody reads.
fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[tokio::test]
async fn a_reader_that_stops_early_changes_no_exit_code() {
    let site = Site::write(1);
    let commands = [
        (&["schema"][..], 0),
        (&["check"], 0),
        (&["plan"], 0),
        (&["runs"], 0),
        (&["report"], 0),
        (&["findings"], 0),
        (&["evidence", "verify"], 3),
        (&["evidence", "show", "nothing"], 2),
        (&["restore", "walet", "--to", "/nowhere"], 2),
    ];
    for (args, code) in commands {
        let heard = site.run(args).await;
        assert_eq!(heard.code, code, "{args:?}: {heard:?}");
        let mut command = site.command(args);
        command.stdout(unread()).stderr(unread());
        let status = command.spawn().unwrap().wait().await.unwrap();
        assert_eq!(status.code(), Some(code), "{args:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_written_is_told() {
    let site = Site::write(1);
    let mut command = site.command(&["runs"]);
    command.stdout(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap()).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("No space left"), "{said}");
    finished(site.command(&["runs"])).await.json(0);
}
