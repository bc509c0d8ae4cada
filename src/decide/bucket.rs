//! What of a bucket's settings is wrong for a vault, and what a person should know. What
//! could not be asked is told as that, and never as being right.

use crate::domain::{Region, Residency};

/// What was learnt of one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told<T> {
    Is(T),
    /// The credentials may not ask.
    Denied {
        right: &'static str,
    },
    /// The store does not know the question.
    Unknown,
}

impl<T> Told<T> {
    pub fn map<U>(self, with: impl FnOnce(T) -> U) -> Told<U> {
        match self {
            Self::Is(value) => Told::Is(with(value)),
            Self::Denied { right } => Told::Denied { right },
            Self::Unknown => Told::Unknown,
        }
    }
}

/// The four parts of Block Public Access, at the bucket.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "Amazon has these four")]
pub struct PublicAccessBlock {
    pub block_public_acls: bool,
    pub ignore_public_acls: bool,
    pub block_public_policy: bool,
    pub restrict_public_buckets: bool,
}

/// How a bucket encrypts what comes without a word about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encryption {
    /// With a key of KMS, and not with the store's own.
    pub is_kms: bool,
    /// One key of KMS serves many objects.
    pub has_bucket_key: bool,
}

/// A rule that copies objects under the vault's prefix to another bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    pub rule: String,
    pub bucket: String,
    /// None where the store did not say it.
    pub region: Option<Region>,
}

/// What a bucket is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub public_access: Told<PublicAccessBlock>,
    pub is_policy_public: Told<bool>,
    pub are_acls_off: Told<bool>,
    /// Whether an ACL lets everybody in.
    pub is_acl_public: Told<bool>,
    /// None where it encrypts nothing by itself.
    pub encryption: Told<Option<Encryption>>,
    /// Whether a rule aborts what an upload in parts has left.
    pub aborts_uploads: Told<bool>,
    /// Names of those that move to an archive what nobody reads.
    pub archiving: Told<Vec<String>>,
    pub replicas: Told<Vec<Replica>>,
}

/// What is said of a setting, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Judged {
    Problem(String),
    Note(String),
}

/// Whether a rule for what begins with `covered` is one for anything under `prefix`.
pub fn overlaps(covered: &str, prefix: &str) -> bool {
    covered.starts_with(prefix) || prefix.starts_with(covered)
}

/// Judges what a bucket is set to, as the vault of a database that may be in these regions.
/// `has_key` where every object is sent with a key of its own to be encrypted with.
pub fn judge(settings: &Settings, has_key: bool, residency: Option<&Residency>) -> Vec<Judged> {
    let mut judged = Judgement::default();
    judged.of("whether its policy lets everybody in", &settings.is_policy_public, |is_public, judged| {
        if *is_public {
            judged.problem(
                "its policy lets everybody in: remove the statement that does, and switch Block Public Access on",
            );
        }
    });
    judged.of("whether an ACL lets everybody in", &settings.is_acl_public, |is_public, judged| {
        if *is_public {
            judged.problem(
                "its ACL lets everybody in: remove that grant, and set its Object Ownership to `BucketOwnerEnforced`",
            );
        }
    });
    judged.of("Block Public Access", &settings.public_access, |block, judged| {
        let off = off(*block);
        if !off.is_empty() {
            judged.note(format!(
                "a policy or an ACL could open it to everybody, as Block Public Access lacks {}: switch all four on",
                off.join(", ")
            ));
        }
    });
    judged.of("Object Ownership", &settings.are_acls_off, |are_off, judged| {
        if !are_off {
            judged.note("ACLs of single objects count in it: set its Object Ownership to `BucketOwnerEnforced`");
        }
    });
    if !has_key {
        judged.of("its default encryption", &settings.encryption, |encryption, judged| match encryption {
            None => judged.note(
                "it encrypts nothing by itself, so only Lifeboat's own encryption protects what lies there: set a default encryption",
            ),
            Some(Encryption { is_kms: true, has_bucket_key: false }) => {
                judged.note("each object asks KMS anew, which costs money and may be throttled: switch its bucket key on");
            }
            Some(_) => {}
        });
    }
    judged.of("whether a lifecycle rule aborts what uploads have left", &settings.aborts_uploads, |aborts, judged| {
        if !aborts {
            judged.note(
                "no lifecycle rule aborts incomplete uploads, so what a crash leaves is paid for until a later `check --connect` finds it: add one, such as after 7 days",
            );
        }
    });
    judged.of("whether Intelligent-Tiering archives", &settings.archiving, |names, judged| {
        if !names.is_empty() {
            judged.note(format!(
                "Intelligent-Tiering ({}) moves what nobody reads to an archive, from which a restore gets it after hours: let it leave out the vault's prefix, if the RTO does not allow that",
                names.join(", ")
            ));
        }
    });
    judged.of("its replication", &settings.replicas, |replicas, judged| {
        for replica in replicas {
            judged.replica(replica, residency);
        }
    });
    judged.told()
}

fn off(block: PublicAccessBlock) -> Vec<&'static str> {
    [
        ("BlockPublicAcls", block.block_public_acls),
        ("IgnorePublicAcls", block.ignore_public_acls),
        ("BlockPublicPolicy", block.block_public_policy),
        ("RestrictPublicBuckets", block.restrict_public_buckets),
    ]
    .into_iter()
    .filter(|(_, is_on)| !is_on)
    .map(|(name, _)| name)
    .collect()
}

/// What was said so far.
#[derive(Default)]
struct Judgement {
    judged: Vec<Judged>,
    unknown: Vec<&'static str>,
}

impl Judgement {
    fn problem(&mut self, what: impl Into<String>) {
        self.judged.push(Judged::Problem(what.into()));
    }

    fn note(&mut self, what: impl Into<String>) {
        self.judged.push(Judged::Note(what.into()));
    }

    fn of<T>(&mut self, what: &'static str, told: &Told<T>, judge: impl FnOnce(&T, &mut Self)) {
        match told {
            Told::Is(value) => judge(value, self),
            Told::Denied { right } => self.note(format!("{what} could not be checked: allow `{right}`")),
            Told::Unknown => self.unknown.push(what),
        }
    }

    fn replica(&mut self, replica: &Replica, residency: Option<&Residency>) {
        let Replica { rule, bucket, region } = replica;
        match (region, residency) {
            (Some(region), Some(residency)) if !residency.allows(region) => self.problem(format!(
                "its replication rule `{rule}` copies what lies there to `{bucket}` in `{region}`, which is outside of `{}`: remove the rule, or let it leave out the vault's prefix",
                residency.jurisdiction
            )),
            (None, Some(residency)) => self.problem(format!(
                "its replication rule `{rule}` copies what lies there to `{bucket}`, and whether that is in `{}` could not be checked: allow `s3:ListBucket` on it, or let the rule leave out the vault's prefix",
                residency.jurisdiction
            )),
            (Some(region), _) => self.note(format!(
                "its replication rule `{rule}` copies what lies there to `{bucket}` in `{region}`: Lifeboat neither looks there nor expires anything there"
            )),
            (None, None) => self.note(format!(
                "its replication rule `{rule}` copies what lies there to `{bucket}`, and nobody could say in which region that is: Lifeboat neither looks there nor expires anything there"
            )),
        }
    }

    fn told(mut self) -> Vec<Judged> {
        if !self.unknown.is_empty() {
            let unknown = self.unknown.join(", ");
            self.note(format!("not checked, as the store does not answer it: {unknown}; look for it yourself"));
        }
        self.judged
    }
}

#[cfg(test)]
mod tests;
