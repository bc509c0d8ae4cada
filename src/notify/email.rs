//! Mail through an SMTP server: with STARTTLS, with TLS from the first byte, or in
//! clear where the files say so. Without the protection that was asked for nothing is
//! said, not even who logs in. A notice that comes again has the same `Message-ID`.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor,
    message::{
        Mailbox,
        header::{ContentType, HeaderName, HeaderValue},
    },
    transport::smtp::{
        self,
        authentication::Credentials,
        client::{Certificate, CertificateStore, Tls, TlsParameters},
    },
};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};

use super::{LIMIT, Notify, NotifyError, SecretSource};
use crate::domain::Notice;

/// How the connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    Starttls,
    Implicit,
    None,
}

/// Who logs in.
#[derive(Debug)]
pub struct Login {
    pub user: String,
    pub password: Arc<dyn SecretSource>,
}

/// Mailboxes that a server delivers to.
#[derive(Debug)]
pub struct Email {
    pub host: String,
    pub port: u16,
    pub protection: Protection,
    /// Whom to trust; the system's list when absent.
    pub ca_file: Option<PathBuf>,
    pub login: Option<Login>,
    pub from: String,
    pub to: Vec<String>,
}

#[async_trait]
impl Notify for Email {
    async fn send(&self, notice: &Notice) -> Result<(), NotifyError> {
        let message = self.message(notice)?;
        let transport = self.transport().await?;
        match tokio::time::timeout(LIMIT, transport.send(message)).await {
            Ok(sent) => sent.map(drop).map_err(|error| self.failed(error)),
            Err(_) => Err(self.silent()),
        }
    }

    async fn probe(&self) -> Result<(), NotifyError> {
        let transport = self.transport().await?;
        match tokio::time::timeout(LIMIT, transport.test_connection()).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) | Err(_) => Err(self.silent()),
            Ok(Err(error)) => Err(self.failed(error)),
        }
    }
}

impl Email {
    fn name(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    fn silent(&self) -> NotifyError {
        NotifyError::Silent { server: self.name() }
    }

    fn message(&self, notice: &Notice) -> Result<Message, NotifyError> {
        let mailbox = |text: &str| -> Result<Mailbox, NotifyError> {
            text.parse().map_err(|error| NotifyError::Unfit {
                what: format!("`{text}` is no mailbox ({error})"),
                remedy: "write it as `dba@example.com`",
            })
        };
        let mut builder = Message::builder()
            .from(mailbox(&self.from)?)
            .subject(&notice.title)
            .date(SystemTime::from(notice.at))
            .message_id(Some(self.message_id(notice)))
            .header(ContentType::TEXT_PLAIN);
        for to in &self.to {
            builder = builder.to(mailbox(to)?);
        }
        let mut message = builder.body(format!("{}\n\n{}\n", notice.text, notice.id)).map_err(|error| {
            NotifyError::Unfit { what: format!("the mail cannot be written ({error})"), remedy: "report it" }
        })?;
        // RFC 3834: no holiday notice answers it.
        let name = HeaderName::new_from_ascii_str("Auto-Submitted");
        message.headers_mut().insert_raw(HeaderValue::new(name, "auto-generated".to_owned()));
        Ok(message)
    }

    /// The same each time that a notice is sent.
    fn message_id(&self, notice: &Notice) -> String {
        let digest = hex::encode(Sha256::digest(&notice.id));
        let domain = self.from.split_once('@').map_or("localhost", |(_, domain)| domain);
        format!("<{}@{domain}>", digest.get(..32).unwrap_or(&digest))
    }

    async fn transport(&self) -> Result<AsyncSmtpTransport<Tokio1Executor>, NotifyError> {
        let tls = match self.protection {
            Protection::Starttls => Tls::Required(self.tls().await?),
            Protection::Implicit => Tls::Wrapper(self.tls().await?),
            Protection::None => Tls::None,
        };
        let builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&self.host);
        let builder = builder.port(self.port).tls(tls).timeout(Some(LIMIT));
        let Some(login) = &self.login else { return Ok(builder.build()) };
        let password = login.password.read().await?;
        let credentials = Credentials::new(login.user.clone(), password.expose_secret().to_owned());
        Ok(builder.credentials(credentials).build())
    }

    async fn tls(&self) -> Result<TlsParameters, NotifyError> {
        const REMEDY: &str = "name a PEM file with the authority's certificate in `ca_file`";
        let unfit = |what: String| NotifyError::Unfit { what, remedy: REMEDY };
        let builder = TlsParameters::builder(self.host.clone());
        let builder = match &self.ca_file {
            None => builder,
            Some(file) => {
                let pem = tokio::fs::read(file).await;
                let pem = pem.map_err(|error| unfit(format!("cannot read {}: {error}", file.display())))?;
                let certificate = Certificate::from_pem(&pem).map_err(|error| unfit(error.to_string()))?;
                builder.certificate_store(CertificateStore::None).add_root_certificate(certificate)
            }
        };
        builder.build_rustls().map_err(|error| unfit(format!("TLS cannot be set up ({error})")))
    }

    /// What a server says in words may name whoever gets mail, so its code alone is told.
    fn failed(&self, error: smtp::Error) -> NotifyError {
        let server = self.name();
        if let Some(code) = error.status() {
            let code: u16 = code.into();
            return NotifyError::Refused {
                server,
                answer: format!("{code} of SMTP"),
                remedy: remedy(code),
                is_permanent: error.is_permanent(),
                retry_after: None,
            };
        }
        if error.is_timeout() {
            return NotifyError::Silent { server };
        }
        // What lettre itself refuses: no STARTTLS, or no way to log in that both know.
        if error.is_client() {
            return NotifyError::Unfit {
                what: format!("{server} does not do what is asked of it ({error})"),
                remedy: "check `tls`, `port` and `user`: the server offers something else",
            };
        }
        NotifyError::Unreachable { server, source: error.into() }
    }
}

/// By the codes of RFC 5321 and RFC 4954.
const fn remedy(code: u16) -> &'static str {
    match code {
        400..500 => "it is tried again",
        530 | 534 | 535 | 538 => "check `user` and the password, and whether the server wants TLS",
        550..555 => "it takes no mail from `from`, or for somebody in `to`: check both, and what it logs",
        _ => "see what the server logs of it",
    }
}
