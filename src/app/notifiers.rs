//! The notifiers, from what the operator wrote. Connects nowhere, and reads no secret
//! before a notice is sent.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use secrecy::SecretString;

use crate::{
    clock::Clock,
    config::{
        Estate, SecretRef,
        notify::{EmailConfig, MailTls, NotifierConfig},
    },
    domain::NotifierName,
    notify::{
        Email, Notify, PagerDuty, SecretSource, Slack, Unread, Webhook,
        email::{Login, Protection},
    },
    secrets::{Secret, Secrets},
};

/// A way to tell people, as it is open.
#[derive(Debug, Clone)]
pub struct Notifier {
    /// As it is written, for people.
    pub kind: &'static str,
    pub to: Arc<dyn Notify>,
}

/// All of them, by name.
pub fn open_notifiers(estate: &Estate, secrets: &Secrets, clock: &Clock) -> BTreeMap<NotifierName, Notifier> {
    let open = |name: &NotifierName, notifier: &NotifierConfig| -> Arc<dyn Notify> {
        let referred = |secret: &SecretRef| referred(secrets, name, secret);
        match notifier {
            NotifierConfig::Webhook(webhook) => Arc::new(Webhook {
                url: webhook.url.clone(),
                secret: referred(&webhook.secret),
                ca_file: webhook.ca_file.clone(),
                clock: clock.clone(),
            }),
            NotifierConfig::Slack(slack) => Arc::new(Slack { url: referred(&slack.url) }),
            NotifierConfig::Pagerduty(pagerduty) => Arc::new(PagerDuty {
                routing_key: referred(&pagerduty.routing_key),
                url: pagerduty.url.clone(),
                source: format!("lifeboat on {}", estate.daemon.node.name),
            }),
            NotifierConfig::Email(mail) => Arc::new(email(mail, name, secrets)),
        }
    };
    let notifiers = estate.daemon.notify.iter();
    notifiers
        .map(|(name, notifier)| (name.clone(), Notifier { kind: notifier.kind(), to: open(name, notifier) }))
        .collect()
}

fn email(mail: &EmailConfig, name: &NotifierName, secrets: &Secrets) -> Email {
    let (protection, usual_port) = match mail.tls {
        MailTls::Starttls => (Protection::Starttls, 587),
        MailTls::Implicit => (Protection::Implicit, 465),
        MailTls::None => (Protection::None, 25),
    };
    let login = mail.user.clone().zip(mail.password.as_ref());
    Email {
        host: mail.host.clone(),
        port: mail.port.unwrap_or(usual_port),
        protection,
        ca_file: mail.ca_file.clone(),
        login: login.map(|(user, password)| Login { user, password: referred(secrets, name, password) }),
        from: mail.from.clone(),
        to: mail.to.clone(),
    }
}

fn referred(secrets: &Secrets, name: &NotifierName, secret: &SecretRef) -> Arc<dyn SecretSource> {
    Arc::new(Referred(secrets.referred(secret, format!("notifier `{name}`"))))
}

/// A secret where the operator's reference says.
#[derive(Debug)]
struct Referred(Secret);

#[async_trait]
impl SecretSource for Referred {
    async fn read(&self) -> Result<SecretString, Unread> {
        self.0.read().await.map_err(|error| Unread { is_permanent: error.is_permanent(), source: Box::new(error) })
    }
}
