//! Vaults in buckets.

use super::*;

#[test]
fn a_bucket() {
    let key = "{access_key_id: AKIA1, secret_access_key: {env: S}}";
    assert_each_bucket(&[
        ("bucket: ‸Backups", "not the name of a bucket", "a-z"),
        ("bucket: ‸b", "not the name of a bucket", "3 to 63"),
        ("bucket: ‸192.0.2.1", "not the name of a bucket", "as the store shows it"),
        ("bucket: ‸a..b", "not the name of a bucket", "as the store shows it"),
        ("prefix: ‸prod", "not a prefix", "end in `/`"),
        ("prefix: ‸/prod/", "not a prefix", "without one at the start"),
        ("prefix: ‸a/../b/", "not a prefix", "such as `prod/`"),
        ("endpoint: ‸minio:9000", "not the address of a store", "https://HOST"),
        ("endpoint: ‸\"https://minio/bucket\"", "not the address of a store", "https://HOST"),
        ("endpoint: ‸\"https://minio:0\"", "not the address of a store", "https://HOST:PORT"),
        ("endpoint: ‸\"https://me:hunter2@minio\"", "a user or password stands", "under `credentials`"),
        ("‸endpont: x", "unknown key `endpont`", "did you mean `endpoint`?"),
        ("‸signing_region: auto", "one name each", "name the `endpoint`"),
        ("addressing: ‸virtual", "`virtual` is not allowed", "`host`"),
        ("storage_class: ‸DEEP_ARCHIVE", "`DEEP_ARCHIVE` is not allowed", "`GLACIER_IR`"),
        ("storage_class: ‸STANDARD-IA", "`STANDARD-IA` is not allowed", "did you mean `STANDARD_IA`?"),
        ("object_lock: {mode: ‸complience}", "`complience` is not allowed", "did you mean `compliance`?"),
        ("object_lock: ‸compliance", "a mapping belongs", "key: value"),
        ("object_lock: {mode: compliance, for: ‸1d}", "would end when that fails once", "at least `2d`"),
        ("credentials: {access_key_id: A, secret_access_key: ‸hunter2}", "reference to a secret", "{env: NAME}"),
        ("credentials: ‸{access_key_id: A}", "`secret_access_key` is missing", "secret_access_key"),
        ("credentials: {access_key_id: A, secret_access_key: {command: [‸pass]}}", "not an absolute path", "full path"),
        ("archive: {retrieval: ‸fast}", "`fast` is not allowed", "`standard`"),
        ("archive: {keep: ‸12h}", "kept for whole days", "such as `3d`"),
        ("archive: {keep: ‸0d}", "kept for whole days", "such as `3d`"),
        ("archive: {limit: ‸0s}", "`limit` is zero", "such as `2d`"),
        ("archive: {‸tier: bulk}", "unknown key `tier`", "`retrieval`"),
        ("encryption: {kms_key: ‸\"\"}", "empty text", "write it"),
        ("limits: {upload: ‸1KiB}", "so slow", "64"),
        ("limits: {requests: ‸0}", "out of range", "from 1"),
        ("limits: {‸uplod: 1MiB}", "unknown key `uplod`", "`upload`"),
        (
            &format!(
                "credentials: {key}, delete_credentials: {{access_key_id: ‸AKIA1, secret_access_key: {{env: T}}}}"
            ),
            "the access key that writes, too",
            "one of its own",
        ),
    ]);
    let twice = |second: &str| {
        format!("{DR}\n  one: {{kind: s3, bucket: bkt, region: eu-south-1, prefix: a/}}\n  two: {second}")
    };
    for second in [
        "{kind: s3, bucket: bkt, region: eu-south-1, prefix: ‸a/}",
        "{kind: s3, bucket: bkt, region: eu-south-1, prefix: ‸a/b/}",
        "{kind: s3, bucket: ‸bkt, region: eu-south-1}",
    ] {
        assert_each(&[(&[(D, DR, &twice(second))], "objects of the vault `one`", "a `prefix` of its own")]);
    }
}

#[test]
fn a_bucket_that_is_right() {
    for more in [
        "",
        ", prefix: prod/wallet/, storage_class: STANDARD_IA, object_lock: {mode: governance, for: 30d}",
        ", storage_class: INTELLIGENT_TIERING, archive: {retrieval: bulk, keep: 7d, limit: 3d}",
        ", endpoint: \"http://127.0.0.1:9000\", addressing: path, signing_region: auto",
        ", endpoint: \"https://[2001:db8::1]:9000\", limits: {upload: 50MiB, download: 1GiB, requests: 100, concurrent: 8}",
        ", endpoint: \"https://s3.example.com/\", encryption: {kms_key: alias/backups}, durable: required",
    ] {
        let written = Written::examples();
        let two = "\n  two: {kind: s3, bucket: backups-dr, region: eu-central-1, prefix: other/}";
        let prefix = if more.contains("prefix:") { "" } else { ", prefix: prod/" };
        let dr = format!("dr: {{kind: s3, bucket: backups-dr, region: eu-central-1{prefix}{more}}}{two}");
        written.change(D, DR, &dr);
        written.load().unwrap_or_else(|problems| panic!("{more}: {problems}"));
    }
}

/// Paths of secrets start at the file, and what a configuration shows is no secret.
#[test]
fn credentials_of_a_bucket_are_references() {
    let written = Written::examples();
    let key = "credentials: {access_key_id: AKIA1, secret_access_key: {file: s3.key}, session_token: {file: s3.token}}";
    let delete = "delete_credentials: {access_key_id: AKIA2, secret_access_key: {env: DR_DELETES}}";
    written.change(D, DR, &format!("dr: {{kind: s3, bucket: backups-dr, region: eu-central-1, {key}, {delete}}}"));
    let estate = written.load().unwrap();
    let shown = format!("{:?}", estate.daemon.vaults);
    let folder = std::fs::canonicalize(written.path("")).unwrap();
    for file in ["s3.key", "s3.token"] {
        assert!(shown.contains(&folder.join(file).display().to_string()), "{shown}");
    }
}

/// Edits that make `dr` a vault in a bucket, with `more` in it.
fn assert_each_bucket(cases: &[(&str, &str, &str)]) {
    for (more, what, remedy) in cases {
        let bucket = if more.contains("bucket:") { "" } else { "bucket: backups-dr, " };
        let region =
            if more.contains("region:") && !more.contains("signing_region:") { "" } else { "region: eu-central-1, " };
        let dr = format!("dr: {{kind: s3, {bucket}{region}{more}}}");
        assert_each(&[(&[(D, DR, &dr)], what, remedy)]);
    }
}
