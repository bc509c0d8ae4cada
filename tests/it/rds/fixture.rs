//! A database in moto with what a restore needs, and the engine that is tried on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aws_sdk_rds::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    types::Tag,
};
use lifeboat::{
    aws::{Access, AwsError},
    engine::{
        managed::{Duty, InstanceOrder, RestoreFrom, tag},
        rds::{Form, Rds, RdsOptions},
    },
};

use super::recorder::Recorder;
use crate::support::moto::{KEY_ID, Known, Moto, SECRET};

pub(super) const HOME: &str = "eu-central-1";
pub(super) const FAR: &str = "eu-west-1";
/// What the tag of the database says.
pub(super) const DATABASE: &str = "prod/wallet";
/// The identifier of the source.
pub(super) const SOURCE: &str = "wallet";
pub(super) const FORMS: [Form; 2] = [Form::Single, Form::Cluster];

pub(super) struct Lab {
    pub form: Form,
    pub rds: Rds,
    pub recorder: Recorder,
    moto: Moto,
}

pub(super) fn region(name: &str) -> lifeboat::domain::Region {
    name.parse().unwrap()
}

pub(super) fn tags(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub(super) fn run(id: &str) -> BTreeMap<String, String> {
    tags(&[(tag::RUN, id), (tag::EXPIRES, "2026-12-01T00:00:00Z")])
}

/// What the error says, which must be of this kind, and name each of these.
pub(super) fn assert_told(error: &AwsError, kind: lifeboat::aws::Kind, parts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind, kind, "{text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

fn access(endpoint: &str, key: &'static str) -> Access {
    Access {
        region: region(HOME),
        endpoint: Some(endpoint.to_owned()),
        use_fips: false,
        keys: Some(Arc::new(Known(key))),
        role: None,
    }
}

fn options(endpoint: &str, form: Form) -> RdsOptions {
    RdsOptions {
        form,
        database: DATABASE.to_owned(),
        source: SOURCE.to_owned(),
        region: region(HOME),
        access: access(endpoint, KEY_ID),
        duties: BTreeMap::new(),
        replicated_to: BTreeSet::new(),
        regions: BTreeSet::from([region(FAR)]),
    }
}

/// How the source is set up.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Setup {
    pub is_encrypted: bool,
}

impl Lab {
    pub(super) async fn of(form: Form) -> Self {
        Self::with(form, Setup::default()).await
    }

    pub(super) async fn with(form: Form, setup: Setup) -> Self {
        let moto = Moto::start().await;
        let recorder = Recorder::before(&moto.endpoint).await;
        let rds = Rds::new(options(&recorder.endpoint, form));
        let lab = Self { form, rds, recorder, moto };
        for place in [HOME, FAR] {
            lab.subnet_group(place).await;
        }
        lab.database(SOURCE, &[("owner", "payments")], setup).await;
        lab
    }

    /// The same database with replicated automated backups.
    pub(super) fn replicated(&self) -> Rds {
        let replicated_to = BTreeSet::from([region(FAR)]);
        Rds::new(RdsOptions { replicated_to, ..options(&self.recorder.endpoint, self.form) })
    }

    pub(super) fn access(&self) -> Access {
        access(&self.recorder.endpoint, KEY_ID)
    }

    /// The same with access of its own for each of these duties.
    pub(super) fn with_duties(&self, keys: &[(Duty, &'static str)]) -> Rds {
        let endpoint = &self.recorder.endpoint;
        let duties = keys.iter().map(|(duty, key)| (*duty, access(endpoint, key))).collect();
        Rds::new(RdsOptions { duties, ..options(endpoint, self.form) })
    }

    /// The same for a database that does not exist.
    pub(super) fn missing(&self) -> Rds {
        Rds::new(RdsOptions { source: "nothing".to_owned(), ..options(&self.recorder.endpoint, self.form) })
    }

    /// A client of nobody's code but the SDK's, past the recorder.
    pub(super) fn client(&self, place: &'static str) -> Client {
        let config = aws_sdk_rds::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(place))
            .credentials_provider(Credentials::new(KEY_ID, SECRET, None, None, "test"))
            .endpoint_url(&self.moto.endpoint);
        Client::from_conf(config.build())
    }

    /// An instance, or a cluster with one, that is not ours but for its tags.
    pub(super) async fn database(&self, id: &str, of: &[(&str, &str)], setup: Setup) {
        let client = self.client(HOME);
        let tags: Vec<Tag> = of.iter().map(|(key, value)| Tag::builder().key(*key).value(*value).build()).collect();
        let key = setup.is_encrypted.then(|| "arn:aws:kms:eu-central-1:123456789012:key/home".to_owned());
        let instance = client.create_db_instance().db_instance_class("db.r6g.large").publicly_accessible(false);
        if self.form == Form::Single {
            let instance = instance.db_instance_identifier(id).engine("postgres").allocated_storage(20);
            let instance = instance.master_username("admin").master_user_password("longer-than-8");
            let instance = instance.db_subnet_group_name("isolated").deletion_protection(true);
            let instance = instance.storage_encrypted(setup.is_encrypted).set_kms_key_id(key);
            instance.set_tags(Some(tags)).send().await.unwrap();
            return;
        }
        let cluster = client.create_db_cluster().db_cluster_identifier(id).engine("aurora-postgresql");
        let cluster = cluster.master_username("admin").master_user_password("longer-than-8").deletion_protection(true);
        let cluster = cluster.storage_encrypted(setup.is_encrypted).set_kms_key_id(key);
        cluster.set_tags(Some(tags.clone())).send().await.unwrap();
        let member = instance.db_instance_identifier(format!("{id}-1")).engine("aurora-postgresql");
        member.db_cluster_identifier(id).set_tags(Some(tags)).send().await.unwrap();
    }

    /// A snapshot that a person takes.
    pub(super) async fn snapshot(&self, id: &str) {
        let client = self.client(HOME);
        match self.form {
            Form::Single => {
                let request = client.create_db_snapshot().db_snapshot_identifier(id).db_instance_identifier(SOURCE);
                request.send().await.unwrap();
            }
            Form::Cluster => {
                let request = client.create_db_cluster_snapshot().db_cluster_snapshot_identifier(id);
                request.db_cluster_identifier(SOURCE).send().await.unwrap();
            }
        }
    }

    /// Whether there is an instance or cluster of this identifier, and whether it is protected.
    pub(super) async fn is_protected(&self, id: &str) -> Option<bool> {
        let client = self.client(HOME);
        match self.form {
            Form::Single => {
                let all = client.describe_db_instances().send().await.unwrap().db_instances.unwrap_or_default();
                let one = all.into_iter().find(|one| one.db_instance_identifier.as_deref() == Some(id));
                one.map(|one| one.deletion_protection == Some(true))
            }
            Form::Cluster => {
                let all = client.describe_db_clusters().send().await.unwrap().db_clusters.unwrap_or_default();
                let one = all.into_iter().find(|one| one.db_cluster_identifier.as_deref() == Some(id));
                one.map(|one| one.deletion_protection == Some(true))
            }
        }
    }

    /// Asks a service that the SDK is not here for, and answers its text.
    async fn ask(&self, place: &str, service: &str, target: Option<&str>, body: &'static str) -> String {
        let scope = format!("AWS4-HMAC-SHA256 Credential={KEY_ID}/20261129/{place}/{service}/aws4_request");
        let request = reqwest::Client::new().post(&self.moto.endpoint).header("authorization", scope).body(body);
        let request = match target {
            Some(target) => request.header("x-amz-target", target).header("content-type", "application/x-amz-json-1.1"),
            None => request.header("content-type", "application/x-www-form-urlencoded"),
        };
        request.send().await.unwrap().error_for_status().unwrap().text().await.unwrap()
    }

    async fn subnet_group(&self, place: &'static str) {
        let subnets = self.ask(place, "ec2", None, "Action=DescribeSubnets&Version=2016-11-15").await;
        let ids = subnets.split("<subnetId>").skip(1).filter_map(|rest| rest.split('<').next());
        let request = self.client(place).create_db_subnet_group().db_subnet_group_name("isolated");
        let request = request.db_subnet_group_description("for copies");
        request.set_subnet_ids(Some(ids.map(str::to_owned).collect())).send().await.unwrap();
    }

    /// The ARN of a new key.
    pub(super) async fn kms_key(&self, place: &str) -> String {
        let told = self.ask(place, "kms", Some("TrentService.CreateKey"), "{}").await;
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        told["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
    }
}

pub(super) fn order(id: &str, place: &str, from: RestoreFrom, run_id: &str) -> InstanceOrder {
    InstanceOrder {
        id: id.to_owned(),
        region: region(place),
        from,
        instance_class: "db.t4g.medium".to_owned(),
        subnet_group: "isolated".to_owned(),
        security_groups: vec!["sg-isolated".to_owned()],
        parameter_group: None,
        tags: run(run_id),
    }
}
