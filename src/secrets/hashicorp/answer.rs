//! What the answers of the API mean, without asking anything.

use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Map, Value};

use super::HashicorpError;

type Body = Map<String, Value>;

/// What is mounted where a path leads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mount {
    /// Ends in `/`; empty where it is not known.
    path: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    KeyValue1,
    KeyValue2,
    /// Whatever is read by one call: database credentials, and all else.
    Other,
    #[default]
    Unknown,
}

impl Mount {
    /// Of the answer to a path's preflight.
    pub(super) fn of(answer: &Body) -> Option<Self> {
        let data = answer.get("data")?;
        let path = data.get("path")?.as_str()?.to_owned();
        let version = data.pointer("/options/version").and_then(Value::as_str);
        let kind = match (data.get("type")?.as_str()?, version) {
            ("kv", Some("2")) => Kind::KeyValue2,
            ("kv" | "generic", _) => Kind::KeyValue1,
            _ => Kind::Other,
        };
        Some(Self { path, kind })
    }

    /// The path of the API. In a store of version 2 it has a `data` behind the mount, which
    /// may be written or left out.
    pub(super) fn api_path(&self, path: &str) -> String {
        match path.strip_prefix(&self.path) {
            Some(rest) if self.kind == Kind::KeyValue2 && !rest.starts_with("data/") => {
                format!("{}data/{rest}", self.path)
            }
            _ => path.to_owned(),
        }
    }

    /// What was answered of a path, and which version of it that is.
    pub(super) fn fields(&self, answer: &Body, address: &str) -> Result<(Body, Option<String>), HashicorpError> {
        let strange = || HashicorpError::Strange { address: address.to_owned(), absent: "any data" };
        let data = answer.get("data").ok_or_else(strange)?;
        let (fields, version) = match self.kind {
            Kind::KeyValue2 => (data.get("data"), data.pointer("/metadata/version").map(ToString::to_string)),
            Kind::KeyValue1 | Kind::Other | Kind::Unknown => (Some(data), None),
        };
        let fields = fields.and_then(Value::as_object).ok_or_else(strange)?;
        Ok((fields.clone(), version))
    }

    /// The line of a policy that lets a token at a path of the API.
    pub(super) fn policy(&self, path: &str) -> String {
        let path = match (self.kind, path.split_once('/')) {
            // Which version it has is not told to whom nothing of it is allowed.
            (Kind::Unknown, Some((mount, rest))) if !rest.starts_with("creds/") => format!("{mount}/data/{rest}"),
            _ => path.to_owned(),
        };
        format!("path \"{path}\" {{ capabilities = [\"read\"] }}")
    }

    /// What to do where a path of the API leads to nothing.
    pub(super) fn remedy(&self, path: &str) -> &'static str {
        match self.kind {
            Kind::KeyValue1 if path.strip_prefix(&self.path).is_some_and(|rest| rest.starts_with("data/")) => {
                "the store is of version 1: write the path without `data/`"
            }
            Kind::KeyValue1 | Kind::KeyValue2 => "store it there, undelete it, or correct the path",
            Kind::Other | Kind::Unknown => "make the role, or correct the path",
        }
    }
}

/// Name and duration of the lease of an answer, and whether it can be renewed.
pub(super) fn lease(answer: &Body) -> Option<(String, Duration, bool)> {
    let id = answer.get("lease_id")?.as_str().filter(|id| !id.is_empty())?;
    let seconds = answer.get("lease_duration")?.as_u64()?;
    Some((id.to_owned(), Duration::from_secs(seconds), answer.get("renewable").and_then(Value::as_bool)?))
}

/// The token of a login, how long it is good for, and whether it can be renewed.
pub(super) fn token(answer: &Body) -> Option<(SecretString, Duration, bool)> {
    let auth = answer.get("auth")?;
    let text = auth.get("client_token")?.as_str()?;
    let seconds = match auth.get("lease_duration")?.as_u64()? {
        // For ever; looked at again once a day.
        0 => 86_400,
        seconds => seconds,
    };
    Some((text.into(), Duration::from_secs(seconds), auth.get("renewable").and_then(Value::as_bool)?))
}

/// For how long a lease, or a token, was renewed.
pub(super) fn renewed(answer: &Body, is_token: bool) -> Option<Duration> {
    let lease = if is_token { answer.get("auth")?.get("lease_duration") } else { answer.get("lease_duration") };
    lease?.as_u64().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mount(kind: &str, options: &Value) -> Mount {
        let answer = json!({"data": {"path": "secret/", "type": kind, "options": options}});
        Mount::of(answer.as_object().unwrap()).unwrap()
    }

    #[test]
    fn a_path_is_that_of_the_command_line_or_that_of_the_api() {
        let (one, two) = (mount("kv", &json!({"version": "1"})), mount("kv", &json!({"version": "2"})));
        for (mount, path, wanted) in [
            (&two, "secret/wallet", "secret/data/wallet"),
            (&two, "secret/data/wallet", "secret/data/wallet"),
            (&two, "secret/a/data/wallet", "secret/data/a/data/wallet"),
            (&one, "secret/wallet", "secret/wallet"),
            (&one, "secret/data/wallet", "secret/data/wallet"),
            (&mount("kv", &Value::Null), "secret/wallet", "secret/wallet"),
            (&mount("database", &json!({})), "secret/creds/wallet", "secret/creds/wallet"),
        ] {
            assert_eq!(mount.api_path(path), wanted);
        }
        assert!(one.remedy("secret/data/wallet").contains("version 1: write the path without `data/`"));
        assert!(!one.remedy("secret/wallet").contains("version"));
    }

    #[test]
    fn fields_lie_where_the_version_has_them() {
        let answer = json!({"data": {"data": {"password": "p"}, "metadata": {"version": 7}}});
        let answer = answer.as_object().unwrap();
        let (fields, version) = mount("kv", &json!({"version": "2"})).fields(answer, "").unwrap();
        assert_eq!((fields.get("password"), version.as_deref()), (Some(&json!("p")), Some("7")));
        let (fields, version) = mount("kv", &json!({"version": "1"})).fields(answer, "").unwrap();
        assert_eq!((fields.contains_key("data"), version), (true, None));
        assert!(mount("kv", &json!({"version": "2"})).fields(&Map::new(), "").is_err());
    }

    #[test]
    fn leases_and_tokens_are_found() {
        let creds = json!({"lease_id": "database/creds/w/1", "lease_duration": 60, "renewable": true, "data": {}});
        let found = lease(creds.as_object().unwrap()).unwrap();
        assert_eq!(found, ("database/creds/w/1".to_owned(), Duration::from_secs(60), true));
        let stored = json!({"lease_id": "", "lease_duration": 2_764_800, "renewable": false});
        assert_eq!(lease(stored.as_object().unwrap()), None);
        let login = json!({"auth": {"client_token": "t", "lease_duration": 0, "renewable": false}});
        assert_eq!(token(login.as_object().unwrap()).unwrap().1, Duration::from_secs(86_400));
    }
}
