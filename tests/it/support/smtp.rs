//! A mail server: aiosmtpd, from the folder that `deploy/install-python` fills, with
//! TLS by an authority of its own, and a login.

use std::{path::PathBuf, time::Duration};

use lifeboat::process::Program;
use serde_json::Value;

use super::{authority::certificate, eventually, moto, scratch};

/// The password of `lifeboat` there; recognisable wherever it should not be.
pub(crate) const PASSWORD: &str = "a-mail-password-that-must-never-be-shown";

/// A running server, stopped when dropped.
pub(crate) struct MailServer {
    pub port: u16,
    /// The authority that made its certificate.
    pub ca_file: PathBuf,
    folder: tempfile::TempDir,
    _server: tokio::process::Child,
}

impl MailServer {
    /// Protected by `starttls`, `implicit` or `none`; it puts off so many mails before it takes one.
    pub(crate) async fn start(protection: &str, put_off: u32) -> Self {
        let folder = scratch();
        certificate(folder.path(), "mail", "DNS:localhost").await;
        let path = |name: &str| folder.path().join(name);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/smtp_server.py");
        let server = Program::new(moto::program()).arg(script).arg(protection);
        let server = server.arg(path("mail.crt")).arg(path("mail.key")).args([PASSWORD, &put_off.to_string()]);
        let server = server.start(std::fs::File::create(path("log")).unwrap()).unwrap();
        let mut mails = Self { port: 0, ca_file: path("mail-ca.crt"), folder, _server: server };
        eventually("the mail server tells its port", Duration::from_secs(60), async || !mails.lines().is_empty()).await;
        mails.port = mails.lines()[0]["port"].as_u64().unwrap().try_into().unwrap();
        mails
    }

    fn lines(&self) -> Vec<Value> {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        // The server tells of errors there, too.
        whole.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// What was taken so far.
    pub(crate) fn mails(&self) -> Vec<Value> {
        self.lines().split_off(1)
    }
}
