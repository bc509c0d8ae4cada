//! The policies in `deploy/iam`, evaluated by a library: that shows what they say, and not
//! what Amazon makes of it.

use std::path::Path;

use iam_rs::{Arn, Context, ContextValue, Decision, IAMPolicy, IAMRequest, Principal, PrincipalId, evaluate_policy};

/// What a role may do.
pub(crate) struct Policy(String);

/// What the library resolves in resources alone, and not in conditions.
const OWN: &str = "${aws:PrincipalTag/lifeboat:database}";

/// The tags that are looked at: of the call, and of what it names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tags {
    /// The session tag of the role.
    pub database: String,
    pub asked: Vec<(String, String)>,
    pub borne: Vec<(String, String)>,
}

impl Policy {
    /// `backup`, `restore` or `delete`.
    pub(crate) fn of(duty: &str) -> Self {
        Self(text(duty))
    }

    /// `action` as policies spell it, `resource` an ARN.
    pub(crate) fn allows(&self, action: &str, resource: &str, tags: &Tags) -> bool {
        let mut context = Context::new();
        for (whose, tags) in [("Request", &tags.asked), ("Resource", &tags.borne)] {
            for (key, value) in tags {
                context.insert(format!("aws:{whose}Tag/{key}"), ContextValue::String(value.clone()));
            }
        }
        let who = Principal::Aws(PrincipalId::String("arn:aws:iam::123456789012:role/lifeboat".to_owned()));
        let request = IAMRequest::new_with_context(who, action, Arn::parse(resource).unwrap(), context);
        let policy = IAMPolicy::from_json(&self.0.replace(OWN, &tags.database)).unwrap();
        evaluate_policy(&policy, &request).unwrap() == Decision::Allow
    }
}

/// The document itself.
pub(crate) fn text(duty: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/iam").join(duty).with_extension("json");
    std::fs::read_to_string(file).unwrap()
}
