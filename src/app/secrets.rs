//! Whether this node has what its files refer to: every secret is read, and what
//! must be an age identity is held against the recipients. A node that lacks one
//! finds out here, and not on the day it has to restore.

use secrecy::ExposeSecret;

use super::login;
use crate::{
    config::{Estate, vault::VaultConfig},
    domain::with_causes,
    flows::KeyError,
    secrets::{Secret, Secrets},
    vault::{self, signature::Signer},
};

/// What reads are for, in the log.
const PURPOSE: &str = "a check";

/// A sentence per secret that cannot be read or used here. Runs the commands and asks the
/// stores that the files name for secrets, and connects nowhere else: where vaults and
/// notifiers are asked too, each tells of its own.
pub async fn unusable(estate: &Estate, secrets: &Secrets, are_asked: bool) -> Vec<String> {
    let mut problems = Vec::new();
    let keys = &estate.daemon.keys;
    for (name, reference) in [("identity", &keys.identity), ("escrow", &keys.escrow)] {
        let Some(reference) = reference else { continue };
        problems.extend(unfit(name, secrets.referred(reference, PURPOSE), &keys.recipients).await);
    }
    // Where it is absent it is made at the first start.
    if keys.signing.file.exists()
        && let Err(error) = Signer::load_or_create(&keys.signing.file)
    {
        problems.push(with_causes(&error));
    }
    for (name, vault) in &estate.daemon.vaults {
        let VaultConfig::S3(bucket) = vault else { continue };
        let own = bucket.credentials.as_ref().filter(|_| !are_asked);
        let keys = [("credentials", own), ("delete_credentials", bucket.delete_credentials.as_ref())];
        for (which, key) in keys.into_iter().filter_map(|(which, key)| Some((which, key?))) {
            for reference in [Some(&key.secret_access_key), key.session_token.as_ref()].into_iter().flatten() {
                if let Err(error) = secrets.referred(reference, PURPOSE).read().await {
                    problems.push(format!("`{which}` of vault `{name}` cannot be read: {}", with_causes(&error)));
                }
            }
        }
    }
    if let Some(key) = &estate.daemon.aws.credentials {
        for reference in [Some(&key.secret_access_key), key.session_token.as_ref()].into_iter().flatten() {
            if let Err(error) = secrets.referred(reference, PURPOSE).read().await {
                problems.push(format!("`aws.credentials` cannot be read: {}", with_causes(&error)));
            }
        }
    }
    for (name, notifier) in estate.daemon.notify.iter().filter(|_| !are_asked) {
        let Some(secret) = notifier.secret() else { continue };
        if let Err(error) = secrets.referred(secret, PURPOSE).read().await {
            problems.push(format!("the secret of notifier `{name}` cannot be read: {}", with_causes(&error)));
        }
    }
    for schedule in estate.schedules.iter().map(|schedule| &schedule.config) {
        if let Err(error) = login::look(schedule, secrets).await {
            problems.push(with_causes(&error));
        }
    }
    problems
}

/// Why a reference is of no use as the age identity `keys.NAME`.
async fn unfit(name: &'static str, secret: Secret, recipients: &[String]) -> Option<String> {
    let text = match secret.read().await {
        Ok(text) => text,
        Err(source) => return Some(with_causes(&KeyError::Secret { name, source })),
    };
    let origin = secret.origin();
    let public: Vec<String> = match vault::identities_from(text.expose_secret()) {
        Ok(identities) => identities.iter().map(|identity| identity.to_public().to_string()).collect(),
        Err(source) => return Some(with_causes(&KeyError::Unfit { name, origin, source: source.into() })),
    };
    let opens = public.iter().any(|key| recipients.contains(key));
    (!opens).then(|| {
        format!(
            "`keys.{name}` ({origin}) will open no new backup: its public key {} is none of `keys.recipients`; add it there, or name the identity of one of them",
            public.join(", ")
        )
    })
}
