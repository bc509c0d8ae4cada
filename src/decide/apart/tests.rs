use super::*;

const SOURCE: &str = "arn:aws:rds:eu-west-1:111111111111:db:wallet";
const RESTORED: &str = "arn:aws:rds:eu-west-1:111111111111:db:lifeboat-wallet-1";

fn production() -> InstanceSettings {
    InstanceSettings {
        engine: "postgres".to_owned(),
        engine_version: "16.4".to_owned(),
        instance_class: "db.m6g.large".to_owned(),
        storage_type: "gp3".to_owned(),
        allocated_bytes: 1 << 37,
        iops: Some(3000),
        kms_key: Some("arn:key/1".to_owned()),
        backup_retention_days: 35,
        backup_window: "02:00-03:00".to_owned(),
        is_multi_az: true,
        is_protected_from_deletion: true,
        is_publicly_accessible: false,
        has_iam_login: false,
        vpc: Some("vpc-1".to_owned()),
        subnet_group: Some("production".to_owned()),
        security_groups: vec!["sg-1".to_owned()],
        parameter_groups: vec!["wallet".to_owned()],
        option_groups: Vec::new(),
        ca_certificate: None,
        tags: BTreeMap::new(),
    }
}

fn tags_of_run() -> BTreeMap<String, String> {
    [("lifeboat:run_id".to_owned(), "r".to_owned())].into()
}

fn isolated() -> InstanceSettings {
    InstanceSettings {
        backup_retention_days: 0,
        is_multi_az: false,
        is_protected_from_deletion: false,
        vpc: Some("vpc-2".to_owned()),
        subnet_group: Some("isolated".to_owned()),
        security_groups: vec!["sg-9".to_owned()],
        tags: tags_of_run(),
        ..production()
    }
}

fn judged(arn: &str, restored: &InstanceSettings, judge: fn(&ApartFacts<'_>) -> Vec<Check>) -> Vec<(String, Verdict)> {
    let (source, tags, groups) = (production(), tags_of_run(), ["sg-9".to_owned()]);
    let ordered = Ordered { subnet_group: "isolated", security_groups: &groups, tags: &tags };
    let checks = judge(&ApartFacts { source: (SOURCE, &source), restored: (arn, restored), ordered });
    checks.into_iter().map(|check| (check.name, check.verdict)).collect()
}

fn not_passed(arn: &str, restored: &InstanceSettings, judge: fn(&ApartFacts<'_>) -> Vec<Check>) -> Vec<String> {
    let checks = judged(arn, restored, judge);
    let worse = checks.into_iter().filter(|(_, verdict)| *verdict != Verdict::Pass);
    worse.map(|(name, verdict)| format!("{name} {verdict}")).collect()
}

#[test]
fn what_stands_where_the_source_does_is_not_apart() {
    let at = |arn: &str, change: fn(&mut InstanceSettings)| {
        let mut restored = isolated();
        change(&mut restored);
        not_passed(arn, &restored, isolation)
    };
    assert_eq!(at(RESTORED, |_| ()), [""; 0]);
    assert_eq!(at(RESTORED, |of| of.vpc = Some("vpc-1".to_owned())), ["network FAIL"]);
    assert_eq!(at(RESTORED, |of| of.vpc = None), ["network INCONCLUSIVE"]);
    assert_eq!(at("lifeboat", |_| ()), ["network INCONCLUSIVE"]);
    assert_eq!(at(RESTORED, |of| of.is_publicly_accessible = true), ["public_access FAIL"]);
    assert_eq!(at(RESTORED, |of| of.is_protected_from_deletion = true), ["deletion_protection FAIL"]);
    assert_eq!(at(RESTORED, |of| of.subnet_group = Some("production".to_owned())), ["subnet_group FAIL"]);
    assert_eq!(at(RESTORED, |of| of.subnet_group = None), ["subnet_group INCONCLUSIVE"]);
    assert_eq!(at(RESTORED, |of| of.security_groups.push("sg-1".to_owned())), ["security_groups FAIL"]);
    assert_eq!(at(RESTORED, |of| of.security_groups.clear()), ["security_groups FAIL"]);
    assert_eq!(at(RESTORED, |of| of.tags.clear()), ["tags FAIL"]);
    // Another account, or another region, is apart whatever its VPC is called.
    for other in [RESTORED.replace("111111111111", "222222222222"), RESTORED.replace("eu-west-1", "eu-west-2")] {
        assert_eq!(at(&other, |of| of.vpc = Some("vpc-1".to_owned())), [""; 0], "{other}");
    }
}

#[test]
fn what_is_otherwise_on_purpose_is_told_and_all_else_is_no_pass() {
    let at = |change: fn(&mut InstanceSettings)| {
        let mut restored = isolated();
        change(&mut restored);
        not_passed(RESTORED, &restored, settings)
    };
    assert_eq!(at(|_| ()), [""; 0]);
    assert_eq!(at(|of| of.parameter_groups = vec!["quiet".to_owned()]), [""; 0]);
    assert_eq!(at(|of| of.instance_class = "db.t4g.micro".to_owned()), ["settings INCONCLUSIVE"]);
    assert_eq!(at(|of| of.kms_key = None), ["settings INCONCLUSIVE"]);
    assert_eq!(at(|of| of.engine_version = "16.5".to_owned()), ["settings INCONCLUSIVE"]);
}
