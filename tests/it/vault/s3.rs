//! A vault in a bucket, against a real HTTP server.

mod archive;
mod errors;
mod guard;
mod probe;
mod retry;
mod settings;
mod upload;

use std::{sync::Arc, time::Duration};

use lifeboat::vault::{Limited, Limits, Retrying, Store, s3::S3Options};

use super::stores::{conforms, names};
use crate::support::moto::{Kind, Moto, open, options};

#[tokio::test]
async fn a_bucket_conforms() {
    let moto = Moto::start().await;
    for (name, kind) in [("plain", Kind::Plain), ("versioned", Kind::Versioned), ("locking", Kind::Locking)] {
        moto.bucket(name, kind).await;
        let store = open(options(&moto.endpoint, name)).await;
        conforms(&store).await;
        assert_eq!(store.place().region.as_str(), "eu-central-1");
        assert!(store.place().region_verified, "the store told its region");
    }
    // Without a prefix it is the whole bucket.
    moto.bucket("whole", Kind::Plain).await;
    conforms(&open(S3Options { prefix: String::new(), ..options(&moto.endpoint, "whole") }).await).await;
}

#[tokio::test]
async fn a_bucket_conforms_behind_its_decorators() {
    let moto = Moto::start().await;
    moto.bucket("bkt", Kind::Versioned).await;
    let few = Limits { concurrent: std::num::NonZeroU32::new(1), ..Limits::default() };
    let limited = Limited::new(Arc::new(open(options(&moto.endpoint, "bkt")).await), few);
    conforms(&Retrying::new(Arc::new(limited), 3, Duration::from_millis(1))).await;
}

/// A listing of more than a thousand names comes in pages.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_listing_is_complete() {
    // The server's pages are as small as its environment says.
    let moto = Moto::start_with(&[("MOTO_S3_DEFAULT_MAX_KEYS", "7")]).await;
    for kind in [Kind::Plain, Kind::Versioned] {
        let bucket = format!("b-{}", kind == Kind::Plain);
        let client = moto.bucket(&bucket, kind).await;
        let store = open(options(&moto.endpoint, &bucket)).await;
        let wanted: Vec<String> = (0..40).map(|n| format!("a/{n:03}")).collect();
        for name in &wanted {
            client
                .put_object()
                .bucket(&bucket)
                .key(format!("prod/{name}"))
                .body(Vec::new().into())
                .send()
                .await
                .unwrap();
        }
        client.put_object().bucket(&bucket).key("elsewhere/x").body(Vec::new().into()).send().await.unwrap();
        assert_eq!(names(&store, "").await, wanted);
        assert_eq!(names(&store, "a/00").await.len(), 10);
        assert_eq!(store.versions("").await.unwrap().len(), 40);
    }
}
