//! JSON to an address of the operator's, signed as Standard Webhooks 1.0 says
//! (<https://www.standardwebhooks.com>): whoever knows the key can tell that it is
//! ours, new, and not changed on the way. `webhook-id` is the same each time that a
//! notice comes again.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::{
    Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use super::{Notify, NotifyError, SecretSource, http::Server};
use crate::{clock::Clock, domain::Notice};

/// What a key in text begins with.
const PREFIX: &str = "whsec_";
/// How long keys are, in bytes.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A webhook.
#[derive(Debug)]
pub struct Webhook {
    pub url: String,
    pub secret: Arc<dyn SecretSource>,
    /// Whom to trust; the system's list when absent.
    pub ca_file: Option<PathBuf>,
    pub clock: Clock,
}

#[async_trait]
impl Notify for Webhook {
    async fn send(&self, notice: &Notice) -> Result<(), NotifyError> {
        let (server, key) = (self.server().await?, self.key().await?);
        let body = body(notice)?;
        let headers = headers(&key, &message_id(&notice.id), self.clock.now().as_second(), &body)?;
        match server.post(headers, body).await? {
            None => Ok(()),
            Some(refusal) => {
                let remedy = "see what the receiver says of it: the address, and the key under `secret`";
                Err(server.refused(&refusal, None, remedy))
            }
        }
    }

    async fn probe(&self) -> Result<(), NotifyError> {
        self.key().await?;
        self.server().await?.probe().await
    }
}

impl Webhook {
    async fn server(&self) -> Result<Server, NotifyError> {
        let url = Url::parse(&self.url).map_err(|error| NotifyError::Unfit {
            what: format!("its `url` is no address ({error})"),
            remedy: "write `https://HOST/PATH`",
        })?;
        Server::new(url, self.ca_file.as_deref()).await
    }

    async fn key(&self) -> Result<Hmac<Sha256>, NotifyError> {
        let secret = self.secret.read().await?;
        key(&secret).ok_or_else(|| NotifyError::Unfit {
            what: "what `secret` refers to is no key of Standard Webhooks".to_owned(),
            remedy: "store `whsec_` and base64 of 24 to 64 random bytes there",
        })
    }
}

fn key(secret: &SecretString) -> Option<Hmac<Sha256>> {
    let bytes = STANDARD.decode(secret.expose_secret().trim().strip_prefix(PREFIX)?).ok()?;
    KEY_BYTES.contains(&bytes.len()).then(|| Hmac::new_from_slice(&bytes).ok())?
}

/// What a receiver may know a notice by. It holds no full stop, which ends it in what is signed.
fn message_id(id: &str) -> String {
    let digest = hex::encode(Sha256::digest(id));
    format!("msg_{}", digest.get(..32).unwrap_or(&digest))
}

fn body(notice: &Notice) -> Result<String, NotifyError> {
    let document = serde_json::json!({
        "type": notice.topic,
        "timestamp": notice.at,
        "data": {
            "id": notice.id,
            "databases": notice.databases,
            "title": notice.title,
            "text": notice.text,
            "details": notice.details,
        },
    });
    serde_json::to_string(&document).map_err(|error| NotifyError::Unfit {
        what: format!("the notice cannot be written as JSON ({error})"),
        remedy: "report it",
    })
}

fn headers(key: &Hmac<Sha256>, id: &str, timestamp: i64, body: &str) -> Result<HeaderMap, NotifyError> {
    let mut mac = key.clone();
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    let mut headers = HeaderMap::new();
    for (name, value) in
        [("webhook-id", id.to_owned()), ("webhook-timestamp", timestamp.to_string()), ("webhook-signature", signature)]
    {
        let value = HeaderValue::from_str(&value).map_err(|error| NotifyError::Unfit {
            what: format!("`{name}` cannot be sent ({error})"),
            remedy: "report it",
        })?;
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with OpenSSL and the key, message and timestamp of the specification's example.
    #[test]
    fn a_signature_is_the_one_of_the_specification() {
        let key = key(&"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned().into()).unwrap();
        let headers = headers(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, "{\"test\": 2432232314}").unwrap();
        assert_eq!(headers["webhook-signature"], "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(headers["webhook-timestamp"], "1614265330");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "secret", "whsec_", "whsec_c2hvcnQ=", "whsec_!!!!", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            assert!(key(&text.to_owned().into()).is_none(), "{text}");
        }
    }

    #[test]
    fn an_id_is_stable_and_holds_no_full_stop() {
        let id = message_id("maintenance/20261226t0100z-20261226t0300z-all/24h/dba.team");
        assert_eq!(id, message_id("maintenance/20261226t0100z-20261226t0300z-all/24h/dba.team"));
        assert!(id.len() == 36 && !id.contains('.'), "{id}");
    }
}
