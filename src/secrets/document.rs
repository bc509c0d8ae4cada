//! What a source holds under one name: a text, or a JSON object of which a reference
//! means one field.

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use super::SecretError;
use crate::config::SecretRef;

/// What was read. Its text is shown to nobody.
#[derive(Debug, Clone)]
pub(super) struct Document {
    text: SecretString,
    /// Which one it is, as the source names its versions.
    version: Option<String>,
}

impl Document {
    pub(super) fn text(text: String) -> Self {
        Self { text: text.into(), version: None }
    }

    pub(super) fn fields(fields: Map<String, Value>) -> Self {
        Self::text(Value::Object(fields).to_string())
    }

    #[must_use]
    pub(super) fn of_version(self, version: Option<String>) -> Self {
        Self { version, ..self }
    }

    pub(super) fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// What a reference means of it.
    pub(super) fn field(&self, reference: &SecretRef) -> Result<SecretString, SecretError> {
        let text = match reference.key() {
            None => self.text.expose_secret().to_owned(),
            Some(key) => field(self.text.expose_secret(), key, reference)?,
        };
        let text = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
        if text.is_empty() {
            return Err(SecretError::Empty(reference.origin()));
        }
        Ok(SecretString::from(text))
    }
}

fn field(text: &str, key: &str, reference: &SecretRef) -> Result<String, SecretError> {
    let (origin, key) = (reference.origin(), key.to_owned());
    let Ok(Value::Object(fields)) = serde_json::from_str(text) else {
        return Err(SecretError::NoObject { origin, key });
    };
    match fields.get(&key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(_) => Err(SecretError::NoScalar { origin, key }),
        None => {
            // Names of fields are no secrets.
            let known: Vec<String> = fields.keys().map(|key| format!("`{key}`")).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Err(SecretError::NoField { origin, key, known })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(key: Option<&str>) -> SecretRef {
        let key = key.map_or_else(String::new, |key| format!(r#", "key": "{key}""#));
        serde_json::from_str(&format!(r#"{{"secretsmanager": "prod/wallet", "region": "eu-south-1"{key}}}"#)).unwrap()
    }

    #[test]
    fn a_field_is_taken_from_an_object_and_a_whole_text_as_it_is() {
        let json = r#"{"username": "w", "password": "hunter2\n", "port": 5432, "more": {}, "none": ""}"#;
        for (text, key, wanted) in [
            ("hunter2\n", None, Ok("hunter2")),
            (json, Some("password"), Ok("hunter2")),
            (json, Some("port"), Ok("5432")),
            (json, None, Ok(json)),
            (json, Some("passwort"), Err("no field `passwort`; it has `username`, `password`, `port`, `more`, `none`")),
            (json, Some("more"), Err("`more` of the secret `prod/wallet` of Secrets Manager in eu-south-1 is neither")),
            (json, Some("none"), Err("is empty")),
            ("hunter2", Some("password"), Err("no JSON object")),
            ("\"hunter2\"", Some("password"), Err("no JSON object")),
            ("", None, Err("is empty")),
        ] {
            let found = Document::text(text.to_owned()).field(&reference(key));
            match (found, wanted) {
                (Ok(found), Ok(wanted)) => assert_eq!(found.expose_secret(), wanted),
                (Err(error), Err(wanted)) => {
                    let shown = format!("{error} {error:?}");
                    assert!(error.to_string().contains(wanted) && !shown.contains("hunter2"), "{shown}");
                }
                (found, wanted) => panic!("{text} {key:?} gave {found:?}, not {wanted:?}"),
            }
        }
    }
}
