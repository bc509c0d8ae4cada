//! What was asked of Amazon, as a test sees it.

use std::collections::BTreeMap;

use axum::http::request::Parts;
use reqwest::Url;

/// Kept out of what is recorded.
const SECRETS: [&str; 1] = ["MasterUserPassword"];

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    /// As the signature names it: `rds`, `sts` …
    pub service: String,
    /// The region that it was signed for.
    pub region: String,
    /// The access key that it was signed with: each assumed role has one of its own.
    pub key_id: String,
    /// `CreateDBSnapshot` …
    pub action: String,
    /// Of the query protocol; others have none.
    pub parameters: BTreeMap<String, String>,
    /// Of the answer, also where it was lost.
    pub status: u16,
    /// The error's code, empty where it went well.
    pub code: String,
    pub is_answer_lost: bool,
}

impl Call {
    pub(super) fn read(head: &Parts, body: &[u8]) -> Self {
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let scope = header("authorization").split_once("Credential=").map_or("", |(_, rest)| rest);
        let mut scope = scope.split([',', ' ']).next().unwrap_or_default().split('/').map(str::to_owned);
        let (key_id, _day) = (scope.next().unwrap_or_default(), scope.next());
        let (region, service) = (scope.next().unwrap_or_default(), scope.next().unwrap_or_default());
        let form = header("content-type").starts_with("application/x-www-form-urlencoded");
        let query = if form { String::from_utf8_lossy(body).into_owned() } else { String::new() };
        let pairs = Url::parse(&format!("http://localhost/?{query}")).unwrap();
        let mut parameters: BTreeMap<String, String> = pairs.query_pairs().into_owned().collect();
        parameters.remove("Version");
        let target = header("x-amz-target").rsplit('.').next().unwrap_or_default().to_owned();
        let action = parameters.remove("Action").unwrap_or(target);
        let (status, code, is_answer_lost) = (0, String::new(), false);
        Self { service, region, key_id, action, parameters, status, code, is_answer_lost }
    }

    /// A parameter, where it was given.
    pub(crate) fn get(&self, parameter: &str) -> Option<&str> {
        self.parameters.get(parameter).map(String::as_str)
    }

    /// The identifiers that it names, in the order of the parameters' names.
    pub(crate) fn identifiers(&self) -> Vec<&str> {
        let names = |name: &str| name.ends_with("Identifier") || name.ends_with("ResourceName");
        self.parameters.iter().filter(|(name, _)| names(name)).map(|(_, value)| value.as_str()).collect()
    }

    pub(super) fn says(&self, parameter: &str) -> bool {
        self.get(parameter) == Some("true")
    }

    pub(super) fn is_change(&self) -> bool {
        !["Describe", "List", "Get"].iter().any(|begin| self.action.starts_with(begin))
    }

    /// Without its secrets.
    pub(super) fn recorded(mut self, status: u16, code: &str, is_answer_lost: bool) -> Self {
        self.parameters.retain(|name, _| !SECRETS.contains(&name.as_str()));
        Self { status, code: code.to_owned(), is_answer_lost, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_from_signature_and_form() {
        let request = axum::http::Request::post("/")
            .header(
                "authorization",
                "AWS4-HMAC-SHA256 Credential=AKIA/20261129/eu-west-1/rds/aws4_request, SignedHeaders=host",
            )
            .header("content-type", "application/x-www-form-urlencoded")
            .body(())
            .unwrap();
        let form = b"Action=CreateDBInstance&Version=2014-10-31&DBInstanceIdentifier=a%2Db&MasterUserPassword=p";
        let call = Call::read(&request.into_parts().0, form);
        assert_eq!((call.service.as_str(), call.region.as_str(), call.key_id.as_str()), ("rds", "eu-west-1", "AKIA"));
        assert_eq!((call.action.as_str(), call.identifiers()), ("CreateDBInstance", vec!["a-b"]));
        assert_eq!(call.get("MasterUserPassword"), Some("p"));
        let recorded = call.recorded(400, "Throttling", false);
        assert_eq!(recorded.parameters.keys().collect::<Vec<_>>(), ["DBInstanceIdentifier"]);
    }
}
