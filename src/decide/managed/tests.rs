use super::*;

type Change = fn(&mut InstanceSettings, &mut SettingsPolicy);
type Setting = fn(&mut InstanceSettings);

fn settings() -> InstanceSettings {
    InstanceSettings {
        engine: "postgres".to_owned(),
        engine_version: "16.4".to_owned(),
        instance_class: "db.r6g.xlarge".to_owned(),
        storage_type: "gp3".to_owned(),
        allocated_bytes: 100 << 30,
        iops: None,
        kms_key: Some("arn:aws:kms:eu-west-1:123456789012:key/11111111-2222".to_owned()),
        backup_retention_days: 14,
        backup_window: "02:00-03:00".to_owned(),
        is_multi_az: true,
        is_protected_from_deletion: true,
        is_publicly_accessible: false,
        has_iam_login: true,
        vpc: Some("vpc-1".to_owned()),
        subnet_group: Some("prod".to_owned()),
        security_groups: vec!["sg-1".to_owned(), "sg-2".to_owned()],
        parameter_groups: vec!["prod16".to_owned()],
        option_groups: vec!["default:postgres-16".to_owned()],
        ca_certificate: Some("rds-ca-rsa2048-g1".to_owned()),
        tags: BTreeMap::from([("owner".to_owned(), "payments".to_owned())]),
    }
}

fn policy() -> SettingsPolicy {
    SettingsPolicy {
        retention_days_min: Some(14),
        backup_window: Some("02:00-03:00".to_owned()),
        encryption: Some(EncryptionPolicy::Key("11111111-2222".to_owned())),
        asks_multi_az: true,
        asks_deletion_protection: true,
        forbids_public_access: true,
    }
}

#[test]
fn what_the_policy_asks_for_is_found_with_its_remedy() {
    let cases: [(Change, &[&str]); 13] = [
        (|_, _| {}, &[]),
        (|settings, _| settings.backup_retention_days = 35, &[]),
        (|settings, _| settings.backup_retention_days = 7, &["for 7 days", "asks for 14", "period to 14"]),
        (|settings, _| settings.backup_retention_days = 0, &["no automated backups", "period to 14"]),
        (|settings, _| settings.backup_window = "04:00-04:30".to_owned(), &["04:00-04:30", "02:00-03:00"]),
        (|settings, _| settings.kms_key = None, &["not encrypted", "11111111-2222", "copied with that key"]),
        (|settings, _| settings.kms_key = Some("arn:aws:kms:x:key/other".to_owned()), &["key/other", "11111111-2222"]),
        (
            |settings, policy| {
                settings.kms_key = None;
                policy.encryption = Some(EncryptionPolicy::AnyKey);
            },
            &["its storage is not encrypted:"],
        ),
        (
            |settings, policy| {
                settings.kms_key = Some("arn:aws:kms:x:key/other".to_owned());
                policy.encryption = Some(EncryptionPolicy::AnyKey);
            },
            &[],
        ),
        (|settings, _| settings.is_multi_az = false, &["one zone", "Multi-AZ"]),
        (|settings, _| settings.is_protected_from_deletion = false, &["deletion protection on"]),
        (|settings, _| settings.is_publicly_accessible = true, &["internet", "public access off"]),
        (
            |_, policy| {
                let key = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222";
                policy.encryption = Some(EncryptionPolicy::Key(key.to_owned()));
            },
            &[],
        ),
    ];
    for (change, parts) in cases {
        let (mut settings, mut policy) = (settings(), policy());
        change(&mut settings, &mut policy);
        let found = findings(&settings, &policy);
        assert_eq!(found.len(), usize::from(!parts.is_empty()), "{found:?}");
        for part in parts {
            assert!(found[0].contains(part), "{part} in {found:?}");
        }
    }
}

#[test]
fn what_is_not_asked_for_is_not_found() {
    let mut worst = settings();
    worst.backup_retention_days = 0;
    worst.kms_key = None;
    worst.is_multi_az = false;
    worst.is_protected_from_deletion = false;
    worst.is_publicly_accessible = true;
    worst.backup_window = String::new();
    assert_eq!(findings(&worst, &SettingsPolicy::default()), Vec::<String>::new());
    assert_eq!(findings(&worst, &policy()).len(), 6);
}

#[test]
fn differences_are_intended_or_not() {
    assert_eq!(differences(&settings(), &settings()), []);
    let mut reordered = settings();
    reordered.security_groups.reverse();
    assert_eq!(differences(&settings(), &reordered), []);

    let cases: [(&str, bool, Setting); 21] = [
        ("engine", false, |of| of.engine = "aurora-postgresql".to_owned()),
        ("engine version", false, |of| of.engine_version = "16.3".to_owned()),
        ("storage type", false, |of| of.storage_type = "gp2".to_owned()),
        ("provisioned IOPS", false, |of| of.iops = Some(3000)),
        ("allocated bytes", false, |of| of.allocated_bytes = 1 << 30),
        ("KMS key", true, |of| of.kms_key = Some("arn:aws:kms:eu-south-1:1:key/other".to_owned())),
        ("KMS key", false, |of| of.kms_key = None),
        ("IAM login", false, |of| of.has_iam_login = false),
        ("CA certificate", false, |of| of.ca_certificate = None),
        ("option groups", false, |of| of.option_groups.clear()),
        ("parameter groups", true, |of| of.parameter_groups = vec!["isolated16".to_owned()]),
        ("instance class", true, |of| of.instance_class = "db.t4g.medium".to_owned()),
        ("VPC", true, |of| of.vpc = Some("vpc-2".to_owned())),
        ("subnet group", true, |of| of.subnet_group = Some("isolated".to_owned())),
        ("security groups", true, |of| of.security_groups = vec!["sg-3".to_owned()]),
        ("public access", false, |of| of.is_publicly_accessible = true),
        ("deletion protection", true, |of| of.is_protected_from_deletion = false),
        ("Multi-AZ", true, |of| of.is_multi_az = false),
        ("backup retention days", true, |of| of.backup_retention_days = 0),
        ("backup window", true, |of| of.backup_window = "05:00-05:30".to_owned()),
        ("tags", true, |of| of.tags.clear()),
    ];
    for (setting, is_intended, change) in cases {
        let mut restored = settings();
        change(&mut restored);
        let found = differences(&settings(), &restored);
        assert_eq!(found.len(), 1, "{setting}: {found:?}");
        assert_eq!((found[0].setting, found[0].is_intended), (setting, is_intended), "{found:?}");
        assert_ne!(found[0].source, found[0].restored);
    }
    let mut public = settings();
    public.is_publicly_accessible = true;
    assert!(differences(&public, &settings())[0].is_intended);
}
