use super::*;

const ALL_ON: PublicAccessBlock = PublicAccessBlock {
    block_public_acls: true,
    ignore_public_acls: true,
    block_public_policy: true,
    restrict_public_buckets: true,
};

fn sound() -> Settings {
    Settings {
        public_access: Told::Is(ALL_ON),
        is_policy_public: Told::Is(false),
        are_acls_off: Told::Is(true),
        is_acl_public: Told::Is(false),
        encryption: Told::Is(Some(Encryption { is_kms: true, has_bucket_key: true })),
        aborts_uploads: Told::Is(true),
        archiving: Told::Is(Vec::new()),
        replicas: Told::Is(Vec::new()),
    }
}

fn replica(region: Option<&str>) -> Told<Vec<Replica>> {
    let region = region.map(|region| region.parse().unwrap());
    Told::Is(vec![Replica { rule: "away".to_owned(), bucket: "elsewhere".to_owned(), region }])
}

fn malta() -> Residency {
    Residency { jurisdiction: "MT".to_owned(), regions: vec!["eu-south-1".parse().unwrap()] }
}

#[test]
fn each_setting_is_judged_with_what_to_do() {
    assert_eq!(judge(&sound(), false, Some(&malta())), []);
    let half = PublicAccessBlock { block_public_policy: false, ..ALL_ON };
    let no_key = Encryption { is_kms: true, has_bucket_key: false };
    let is = |problem: bool, what: &str| (problem, what.to_owned());
    for (settings, (is_problem, words)) in [
        (Settings { is_policy_public: Told::Is(true), ..sound() }, is(true, "policy lets everybody in: remove")),
        (Settings { is_acl_public: Told::Is(true), ..sound() }, is(true, "ACL lets everybody in: remove")),
        (
            Settings { public_access: Told::Is(half), ..sound() },
            is(false, "lacks BlockPublicPolicy: switch all four on"),
        ),
        (Settings { are_acls_off: Told::Is(false), ..sound() }, is(false, "set its Object Ownership")),
        (Settings { encryption: Told::Is(None), ..sound() }, is(false, "set a default encryption")),
        (Settings { encryption: Told::Is(Some(no_key)), ..sound() }, is(false, "switch its bucket key on")),
        (Settings { aborts_uploads: Told::Is(false), ..sound() }, is(false, "aborts incomplete uploads")),
        (Settings { archiving: Told::Is(vec!["old".to_owned()]), ..sound() }, is(false, "Intelligent-Tiering (old)")),
        (
            Settings { replicas: replica(Some("us-east-1")), ..sound() },
            is(true, "in `us-east-1`, which is outside of `MT`"),
        ),
        (Settings { replicas: replica(Some("eu-south-1")), ..sound() }, is(false, "to `elsewhere` in `eu-south-1`")),
        (Settings { replicas: replica(None), ..sound() }, is(true, "whether that is in `MT` could not be checked")),
    ] {
        let judged = judge(&settings, false, Some(&malta()));
        let [one] = judged.as_slice() else { panic!("{judged:?}") };
        let (Judged::Problem(told) | Judged::Note(told)) = one;
        assert_eq!(matches!(one, Judged::Problem(_)), is_problem, "{told}");
        assert!(told.contains(&words), "{told}");
    }
}

#[test]
fn without_a_residency_no_region_is_wrong() {
    for region in [Some("us-east-1"), None] {
        let judged = judge(&Settings { replicas: replica(region), ..sound() }, false, None);
        assert!(matches!(judged.as_slice(), [Judged::Note(_)]), "{judged:?}");
    }
}

#[test]
fn a_key_of_the_vault_makes_the_default_of_no_matter() {
    assert_eq!(judge(&Settings { encryption: Told::Is(None), ..sound() }, true, None), []);
}

/// Whatever is not known is told, whichever it is.
#[test]
fn what_could_not_be_asked_is_never_right() {
    fn closed<T>() -> Told<T> {
        Told::Denied { right: "s3:GetIt" }
    }
    let denied = Settings {
        public_access: closed(),
        is_policy_public: closed(),
        are_acls_off: closed(),
        is_acl_public: closed(),
        encryption: closed(),
        aborts_uploads: closed(),
        archiving: closed(),
        replicas: closed(),
    };
    let judged = judge(&denied, false, None);
    assert_eq!(judged.len(), 8, "{judged:?}");
    for one in &judged {
        assert!(
            matches!(one, Judged::Note(told) if told.ends_with("could not be checked: allow `s3:GetIt`")),
            "{one:?}"
        );
    }
    let unknown = Settings { archiving: Told::Unknown, replicas: Told::Unknown, ..sound() };
    let judged = judge(&unknown, false, Some(&malta()));
    let [Judged::Note(told)] = judged.as_slice() else { panic!("{judged:?}") };
    assert!(told.contains("whether Intelligent-Tiering archives, its replication"), "{told}");
}

#[test]
fn a_rule_for_a_part_or_the_whole_of_the_prefix_is_one_of_ours() {
    for (covered, expected) in
        [("", true), ("prod", true), ("prod/", true), ("prod/wallet/", true), ("test/", false), ("production/", false)]
    {
        assert_eq!(overlaps(covered, "prod/"), expected, "{covered}");
    }
    assert!(overlaps("anything/", ""));
}
