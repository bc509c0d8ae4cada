//! Rules of `schedules/*.yaml`.

use super::{Report, Spot, known};

mod checks;
mod managed;
mod point;
mod promise;
mod source;
mod times;

pub(super) use times::maintenance;

use crate::{
    config::{schedule::VerifyConfig, walk::nearest},
    decide::sample::Rotation,
    domain::{ByteSize, KeepPeriod, Region, Share, Span},
};

pub(super) fn check(daemon: Spot<'_>, schedule: Spot<'_>, report: &mut Report<'_>) {
    match schedule.get("engine").text() {
        Some("postgres") => own(daemon, schedule, report),
        Some("rds") => managed::check(daemon, schedule, managed::Kind::Instance, report),
        Some("aurora") => managed::check(daemon, schedule, managed::Kind::Cluster, report),
        // What it should have is not known; that it is none of these is reported.
        _ => {}
    }
    let regions = schedule.get("residency").get("regions");
    if regions.is_empty() {
        report.add(regions.place, "the residency allows no region", "list the regions where the data may be");
    }
    promise::check(daemon, schedule, report);
    login(daemon, schedule.get("login"), report);
    let backups = schedule.get("backups");
    if backups.is_empty() {
        report.add(backups.place, "no backup is ever taken", "add `- {kind: full, cron: \"0 2 * * *\"}`");
    }
    backups.items().for_each(|line| keep(line, report));
    times::check(daemon, schedule, report);
    super::notify::names(daemon, schedule.get("notify"), report);
    let test = schedule.get("restore_test");
    if test.exists() {
        checks::check(test.get("checks"), report);
        report.refuse_zero(test, "limit", "write how long recovery may take, such as `1h`");
        point::check(schedule, test.get("recovery_point"), report);
    }
}

/// Of a database that no provider runs.
fn own(daemon: Spot<'_>, schedule: Spot<'_>, report: &mut Report<'_>) {
    require(schedule, &[("vaults", "WAL goes to all of them"), ("wal", "How WAL is kept")], report);
    managed::refuse(schedule, report);
    servers(schedule, report);
    vaults(daemon, schedule, report);
    parents(schedule.get("backups"), report);
    source::check(schedule, report);
    wal(daemon, schedule, report);
    window(schedule, report);
    verify(schedule.get("verify"), report);
    copy(schedule, report);
    let test = schedule.get("restore_test");
    if test.exists() {
        restore_test(daemon, schedule, test, report);
    }
}

/// Keys with their meaning that the schema cannot require, as a database of another
/// engine has none of them. A misspelt one is reported as what it is.
fn require(schedule: Spot<'_>, keys: &[(&str, &str)], report: &mut Report<'_>) {
    for (key, meaning) in keys {
        let is_meant = |name: &str| name == *key || nearest(name, &[key]).is_some();
        if !schedule.pairs().any(|(name, _, _)| is_meant(name)) {
            report.add(schedule.place, format!("the key `{key}` is missing"), format!("add `{key}: …` ({meaning})"));
        }
    }
}

fn login(daemon: Spot<'_>, login: Spot<'_>, report: &mut Report<'_>) {
    report.secret(daemon, login.get("password"));
    users(daemon, login, report);
    for (one, other) in [("sslcert", "sslkey"), ("sslkey", "sslcert")] {
        if login.get(one).exists() && !login.get(other).exists() {
            let what = format!("`{one}` is of no use without `{other}`");
            report.add(login.key(one), what, format!("add `{other}`, or remove `{one}`"));
        }
    }
    if login.get("sslcert").exists() && login.get("sslmode").text() == Some("disable") {
        let remedy = "use `sslmode: verify-full`, or remove `sslcert` and `sslkey`";
        report.add(login.key("sslcert"), "without TLS no certificate is shown", remedy);
    }
}

/// Users that come and go have a role in common, or nobody could say whose rights they need.
fn users(daemon: Spot<'_>, login: Spot<'_>, report: &mut Report<'_>) {
    let (user, role) = (login.get("user"), login.get("member_of"));
    let is_referred = user.exists() && user.text().is_none();
    if is_referred {
        report.secret(daemon, user);
        if !login.get("password").exists() {
            report.add(login.key("user"), "a user that is found elsewhere has a password there", "add `password: …`");
        }
    }
    if is_referred && !role.exists() {
        let remedy = "add `member_of: ROLE`, and grant the role to each of them when they are made";
        report.add(login.key("user"), "nothing says whose rights these users have", remedy);
    }
    if !is_referred && user.exists() && role.exists() {
        report.add(login.key("member_of"), "the role that logs in is `user`", "remove `member_of`");
    }
}

fn servers(schedule: Spot<'_>, report: &mut Report<'_>) {
    let (members, connection) = (schedule.get("members"), schedule.get("connection"));
    let some = members.pairs().next().is_some();
    match (some, connection.exists()) {
        (true, true) => report.add(
            schedule.key("connection"),
            "`members` and `connection` both say where the database is",
            "keep `members` when there is a standby, else `connection`",
        ),
        (false, false) => report.add(
            if members.exists() { members.place } else { schedule.place },
            "nothing says where the database is",
            "add `members` with its servers, or `connection` when there is one",
        ),
        _ => {}
    }
    let mut seen: Vec<(&str, (&str, &str))> = Vec::new();
    for (name, place, member) in members.pairs() {
        let Some(host) = member.get("host").text() else { continue };
        let server = (host, member.get("port").text().unwrap_or("5432"));
        if let Some((other, _)) = seen.iter().find(|(_, seen)| *seen == server) {
            report.add(place, format!("`{name}` is the same server as `{other}`"), "remove one of the two");
        }
        seen.push((name, server));
    }
}

fn vaults(daemon: Spot<'_>, schedule: Spot<'_>, report: &mut Report<'_>) {
    let (named, defined) = (schedule.get("vaults"), daemon.get("vaults"));
    if named.is_empty() {
        report.add(named.place, "no vault is named", "name at least one vault of lifeboat.yaml");
    }
    report.refuse_twins(named);
    for vault in named.items() {
        let Some(name) = vault.text() else { continue };
        if !defined.exists() {
            return; // What is defined is not known.
        }
        if !defined.pairs().any(|(defined, _, _)| defined == name) {
            let remedy = known(defined.pairs().map(|(name, _, _)| name), name, "vault in lifeboat.yaml");
            report.add(vault.place, format!("the vault `{name}` does not exist"), remedy);
        } else if let Some(outside) = outside(schedule, defined.get(name).get("region")) {
            report.add(
                vault.place,
                format!(
                    "the vault `{name}` is in {}, outside the residency of {}",
                    outside.region, outside.jurisdiction
                ),
                format!("use a vault in {}, or allow {} under `residency`", outside.allowed, outside.region),
            );
        }
    }
}

/// A region that a residency does not allow.
struct Outside<'a> {
    region: &'a str,
    jurisdiction: &'a str,
    /// The regions that it does allow, for a message.
    allowed: String,
}

fn outside<'a>(schedule: Spot<'a>, region: Spot<'a>) -> Option<Outside<'a>> {
    region.parsed::<Region>()?;
    let region = region.text()?;
    let residency = schedule.get("residency");
    let allowed: Vec<&str> = residency.get("regions").items().filter_map(Spot::text).collect();
    if allowed.is_empty() || allowed.contains(&region) {
        return None;
    }
    let jurisdiction = residency.get("jurisdiction").text().unwrap_or("the schedule");
    Some(Outside { region, jurisdiction, allowed: allowed.join(" or ") })
}

/// What one line of the schedule keeps.
fn keep(line: Spot<'_>, report: &mut Report<'_>) {
    let keep = line.get("keep");
    if keep.exists() && keep.pairs().next().is_none() {
        report.add(
            line.key("keep"),
            "this line takes backups and keeps none of them",
            "write how many, such as `keep: {daily: 31}`, or remove `keep`: then none ever expires",
        );
    }
    for (period, _, count) in keep.pairs() {
        if count.text() == Some("0") {
            report.add(count.place, format!("`{period}: 0` keeps nothing"), "remove it, or write at least 1");
        }
    }
    let is_full = line.get("kind").text().is_none_or(|kind| kind == "full");
    if line.get("standalone").text() == Some("true") && !is_full {
        report.add(line.key("standalone"), "only a full backup can stand alone", "use `kind: full`, or remove it");
    }
}

/// An increment upon an increment for ever would need all of them to be restored, and
/// a differential needs a full backup.
fn parents(backups: Spot<'_>, report: &mut Report<'_>) {
    let kind = |line: Spot<'_>| line.get("kind").text().map(str::to_owned);
    let carries =
        |line: Spot<'_>| kind(line).is_none_or(|kind| kind == "full") && line.get("standalone").text() != Some("true");
    if backups.items().any(carries) {
        return;
    }
    for line in backups.items() {
        let children = match kind(line).as_deref() {
            Some("incremental") => "increments",
            Some("differential") => "differentials",
            _ => continue,
        };
        report.add(
            line.get("kind").place,
            format!("no line takes the full backups that {children} are built upon"),
            "add a line such as `- {kind: full, cron: \"0 2 * * 0\"}`",
        );
    }
}

/// The longest that a line keeps backups; none where one keeps them for ever, or
/// where it is not known.
fn reach(schedule: Spot<'_>) -> Option<Span> {
    let mut longest = None;
    for line in schedule.get("backups").items() {
        let keep = line.get("keep");
        if !keep.exists() {
            return None;
        }
        for (name, _, count) in keep.pairs() {
            let period = KeepPeriod::ALL.into_iter().find(|period| period.as_str() == name)?;
            let seconds = period.span().as_duration().as_secs().saturating_mul(count.parsed::<u64>()?);
            longest = longest.max(Some(Span::from_secs(seconds)));
        }
    }
    longest
}

/// Every instant of the window is restored from a backup before it.
fn window(schedule: Spot<'_>, report: &mut Report<'_>) {
    let window = schedule.get("wal").get("window");
    if let (Some(wanted), Some(reach)) = (window.parsed::<Span>(), reach(schedule))
        && wanted > reach
        && reach > Span::from_secs(0)
    {
        report.add(
            window.place,
            format!("every instant of {wanted} is to be restorable, and no backup is kept for longer than {reach}"),
            "make it at most as long as some line keeps its backups, or keep more of them",
        );
    }
}

fn wal(daemon: Spot<'_>, schedule: Spot<'_>, report: &mut Report<'_>) {
    let wal = schedule.get("wal");
    let stream = wal.get("stream");
    if stream.text() == Some("false") {
        report.add(
            stream.place,
            "a backup cannot be restored without the WAL that was written while it ran",
            "write `stream: true`",
        );
    }
    report.refuse_zero(wal, "window", "write how far back every instant can be restored, such as `31d`");
    report.refuse_zero(wal, "flush_every", "write how often WAL becomes durable, such as `1s`");
    let room = wal.get("room_on_primary");
    if room.parsed::<ByteSize>() == Some(ByteSize::from_bytes(0)) {
        report.add(
            room.place,
            "`room_on_primary` is zero",
            "write how much WAL the primary's disk has room for, such as `50GiB`",
        );
    }
    let flush = wal.get("flush_every");
    if let (Some(every), Some(rpo)) = (flush.parsed::<Span>(), promise::promised(daemon, schedule, "rpo"))
        && every > rpo
        && rpo > Span::from_secs(0)
    {
        let what = format!("WAL becomes durable every {every}, and the objective is to lose at most {rpo}");
        report.add(flush.place, what, "flush more often than `objectives.rpo`");
    }
}

/// A share that does not reach everything within the period is a promise that
/// is not kept. What is not written has the value of its default.
fn verify(verify: Spot<'_>, report: &mut Report<'_>) {
    report.refuse_zero(verify, "every", "write how often the vaults are verified, such as `1d`");
    report.refuse_zero(verify, "period", "write within which time everything is read once, such as `30d`");
    if !verify.exists() {
        return;
    }
    let default = VerifyConfig::default();
    let span = |key: &str, default: Span| {
        let spot = verify.get(key);
        if spot.exists() { spot.parsed::<Span>().filter(|span| *span > Span::from_secs(0)) } else { Some(default) }
    };
    let sample = verify.get("sample");
    let share = if sample.exists() { sample.parsed::<Share>() } else { Some(default.sample) };
    let (Some(every), Some(period), Some(share)) =
        (span("every", default.every), span("period", default.period), share)
    else {
        return;
    };
    let takes = Rotation { every: every.as_duration(), share, period: period.as_duration() }.takes();
    if takes > period.as_duration() {
        let what =
            format!("{share} every {every} reads everything in {}, and the period is {period}", Span::from(takes));
        report.add(verify.place, what, "read more each time, more often, or within a longer period");
    }
}

fn copy(schedule: Spot<'_>, report: &mut Report<'_>) {
    let copy = schedule.get("copy");
    report.refuse_zero(copy, "lag_max", "write how long a copy may take, such as `6h`");
    if copy.exists() && schedule.get("vaults").items().count() == 1 {
        report.add(
            schedule.key("copy"),
            "there is one vault, so nothing is ever copied",
            "name a further vault under `vaults`, or remove `copy`",
        );
    }
}

fn restore_test(daemon: Spot<'_>, schedule: Spot<'_>, test: Spot<'_>, report: &mut Report<'_>) {
    let place = schedule.key("restore_test");
    let roles = daemon.get("node").get("roles");
    let is_worker = !roles.exists() || roles.items().any(|role| role.text() == Some("worker"));
    if is_worker && daemon.get("keys").exists() && !daemon.get("keys").get("identity").exists() {
        report.add(
            place,
            "a restore test needs an age identity, and this node has none",
            "add `identity: {file: PATH}` under `keys` in lifeboat.yaml",
        );
    }
    for (key, such_as) in [("memory", "2GiB"), ("disk", "40GiB")] {
        let limit = test.get("target").get(key);
        if limit.parsed::<ByteSize>().is_some_and(|limit| limit.as_bytes() == 0) {
            let remedy = format!("write how much the copy may use, such as `{such_as}`, or leave it out");
            report.add(limit.place, format!("`{key}` is zero"), remedy);
        }
    }
    restores_here(daemon, schedule, "the test would restore on this node", report);
}

/// Nodes that share a state leave a test to one that stands inside the residency.
fn restores_here(daemon: Spot<'_>, schedule: Spot<'_>, subject: &str, report: &mut Report<'_>) {
    let is_alone = daemon.get("state").get("url").text().is_none_or(|url| url.starts_with("sqlite:"));
    if let Some(outside) = outside(schedule, daemon.get("node").get("region")).filter(|_| is_alone) {
        let Outside { region, jurisdiction, allowed } = outside;
        report.add(
            schedule.key("restore_test"),
            format!("{subject} in {region}, outside the residency of {jurisdiction}"),
            format!("run it on a node in {allowed}, or allow {region} under `residency`"),
        );
    }
}
