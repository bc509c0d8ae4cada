//! Calls of RDS as one role in one region. All that are made at all stand below: those
//! that look in `look.rs`, those that make, change or remove something in `change.rs`,
//! each with the right that it needs.

use std::collections::BTreeMap;

use aws_config::SdkConfig;
use aws_sdk_rds::{Client, types::Tag};

use crate::{
    aws::{Access, Call},
    domain::Region,
};

mod change;
mod look;

pub(super) use change::Origin;
pub(super) use look::Which;

const SERVICE: &str = "rds";

/// A client, and what messages tell of its calls.
#[derive(Debug)]
pub(super) struct Caller {
    client: Client,
    settings: SdkConfig,
    region: Region,
}

impl Caller {
    /// Connects nowhere yet.
    pub(super) async fn of(access: &Access) -> Self {
        let settings = access.settings().await;
        Self { client: Client::new(&settings), settings, region: access.region.clone() }
    }

    pub(super) fn settings(&self) -> &SdkConfig {
        &self.settings
    }

    pub(super) fn region(&self) -> &Region {
        &self.region
    }

    pub(super) fn call(&self, action: impl Into<String>, right: &'static str) -> Call {
        Call::of(SERVICE, &self.settings, action, right)
    }
}

/// Tags as the service takes them.
pub(super) fn tag_list(tags: &BTreeMap<String, String>) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()
}

/// Tags as it tells of them.
pub(super) fn tags_of(list: Option<Vec<Tag>>) -> BTreeMap<String, String> {
    let pair = |tag: Tag| Some((tag.key?, tag.value.unwrap_or_default()));
    list.unwrap_or_default().into_iter().filter_map(pair).collect()
}
