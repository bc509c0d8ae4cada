//! `schedules/*.yaml`: one database each.

use std::{collections::BTreeMap, num::NonZeroU32};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    SecretRef,
    check::CheckConfig,
    managed::{AutomatedBackupsConfig, RdsTargetConfig, RolesConfig, SnapshotCopyConfig},
    point::RecoveryPointConfig,
};
use crate::decide::{agenda::CatchUp, tier};
use crate::domain::{
    BackupFrom, BackupKind, ByteSize, DatabaseName, KeepPeriod, MemberName, NotifierName, Objectives, Placement,
    Region, Residency, Share, SiteName, Span, Tier, VaultName, record::kind,
};

/// One protected database.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Its name here; no two schedules have the same.
    pub database: DatabaseName,
    /// What kind of database it is.
    pub engine: EngineKind,
    /// Its servers by name; or `connection` when there is one.
    #[serde(default)]
    #[schemars(extend("propertyNames" = {"format": "MemberName"}))]
    pub members: BTreeMap<MemberName, MemberConfig>,
    /// The only server, when there is no standby.
    pub connection: Option<ConnectionConfig>,
    /// The name of its instance at the provider, for `engine: rds`.
    #[schemars(extend("format" = "filled"))]
    pub instance: Option<String>,
    /// The name of its cluster at the provider, for `engine: aurora`.
    #[schemars(extend("format" = "filled"))]
    pub cluster: Option<String>,
    /// Where the provider runs it, for `engine: rds` and `aurora`.
    pub region: Option<Region>,
    /// As whom the provider is called.
    #[serde(default)]
    pub roles: RolesConfig,
    /// How the provider's own backups should be set up.
    #[serde(default)]
    pub automated_backups: AutomatedBackupsConfig,
    /// Where its snapshots are copied to.
    #[serde(default)]
    pub snapshot_copies: Vec<SnapshotCopyConfig>,
    /// How to log in.
    pub login: LoginConfig,
    /// How soon it has to be back: what it promises where `objectives` says nothing, and
    /// what must be there to keep that (`docs/tiers.md`).
    pub tier: Option<Tier>,
    /// What was promised; what is not written is what the tier promises.
    #[serde(default)]
    pub(super) objectives: ObjectivesConfig,
    /// Where its data may be; anywhere when absent.
    pub residency: Option<Residency>,
    /// WAL goes to all of them; backups to the first, and are copied to the rest. None where the
    /// provider keeps its backups.
    #[serde(default)]
    pub vaults: Vec<VaultName>,
    /// How the copies to the further vaults are watched.
    #[serde(default)]
    pub copy: CopyConfig,
    /// IANA zone of the schedules below.
    #[serde(default = "utc")]
    #[schemars(extend("format" = "timezone"))]
    pub timezone: String,
    /// From which member backups are taken. One from a standby needs the WAL since its
    /// last restartpoint; a standby that is more than 1 GiB of WAL behind is not fit.
    #[serde(default)]
    pub backup_from: BackupFrom,
    /// How much a server may send of a backup in a second, from 32KiB to 1GiB; as
    /// much as it can when absent.
    pub backup_rate_max: Option<ByteSize>,
    /// How many runs of it may be driven at a time, by all nodes; not limited when absent.
    pub runs_max: Option<NonZeroU32>,
    /// When to take backups; at least one.
    pub backups: Vec<BackupScheduleConfig>,
    /// How WAL is kept; said of every database that no provider runs.
    #[serde(default)]
    pub wal: WalConfig,
    /// How the vaults are verified.
    #[serde(default)]
    pub verify: VerifyConfig,
    /// When and how backups are proven.
    pub restore_test: Option<RestoreTestConfig>,
    /// When drills and restore tests do not begin, such as the days of a big match.
    /// WAL never stops.
    #[serde(default)]
    pub blackouts: Vec<BlackoutConfig>,
    /// Which notifiers of `lifeboat.yaml` are told what concerns this database: the
    /// maintenance that holds its runs, ahead of it.
    #[serde(default)]
    pub notify: Vec<NotifierName>,
}

pub(super) fn utc() -> String {
    "UTC".to_owned()
}

impl ScheduleConfig {
    /// What was promised: what is written, else what the tier promises. Zero where
    /// neither says anything, which `load` refuses.
    pub fn objectives(&self) -> Objectives {
        let tier = self.tier.map(|tier| tier::terms(tier).objectives);
        let zero = Span::from_secs(0);
        let ObjectivesConfig { rto, rpo } = self.objectives;
        Objectives {
            rto: rto.or(tier.map(|tier| tier.rto)).unwrap_or(zero),
            rpo: rpo.or(tier.map(|tier| tier.rpo)).unwrap_or(zero),
        }
    }

    /// Where a run over it that works on these vaults may be driven.
    pub fn placement<'a>(&self, vaults: impl IntoIterator<Item = &'a VaultName>) -> Placement {
        Placement {
            regions: self.residency.as_ref().map(|residency| residency.regions.clone()).unwrap_or_default(),
            vaults: vaults.into_iter().cloned().collect(),
            database: Some(self.database.clone()),
        }
    }

    /// Where the law of its data is made.
    pub fn jurisdiction(&self) -> Option<String> {
        self.residency.as_ref().map(|residency| residency.jurisdiction.clone())
    }

    /// Refuses a region that its data may not be in, with the reason.
    pub fn refuse_outside_residency(&self, region: &Region) -> Result<(), String> {
        match &self.residency {
            Some(residency) if !residency.allows(region) => Err(format!(
                "the data of `{}` may not go to {region}: the jurisdiction {} does not allow it",
                self.database, residency.jurisdiction
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// Its servers by name, also where there is one `connection` only.
    pub fn all_members(&self) -> BTreeMap<MemberName, MemberConfig> {
        let only = self.connection.as_ref().and_then(|connection| {
            let member =
                MemberConfig { host: connection.host.clone(), port: connection.port, site: ONLY.parse().ok()? };
            Some((ONLY.parse().ok()?, member))
        });
        self.members.clone().into_iter().chain(only).collect()
    }
}

/// Recovery time and recovery point objectives, as far as they are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObjectivesConfig {
    /// Recovery time objective: disaster to healthy users.
    pub rto: Option<Span>,
    /// Recovery point objective: newest acknowledged commit that may be lost, as an age.
    pub rpo: Option<Span>,
}

/// Member and site of a database that has one server: where its file names it.
const ONLY: &str = "connection";

/// What kind a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// A self-managed PostgreSQL cluster.
    Postgres,
    /// An instance of Amazon RDS for PostgreSQL.
    Rds,
    /// A cluster of Amazon Aurora PostgreSQL.
    Aurora,
}

/// One server of a database.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MemberConfig {
    /// A host name, an address, or the folder of a Unix socket (starts with `/`).
    #[schemars(extend("format" = "filled"))]
    pub host: String,
    /// TCP port, and part of the socket's name.
    #[serde(default = "postgres_port")]
    #[schemars(range(min = 1))]
    pub port: u16,
    /// Where it stands; runbooks name sites.
    pub site: SiteName,
}

fn postgres_port() -> u16 {
    5432
}

/// The only server of a database; its member name and site are `connection`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectionConfig {
    /// A host name, an address, or the folder of a Unix socket (starts with `/`).
    #[schemars(extend("format" = "filled"))]
    pub host: String,
    /// TCP port, and part of the socket's name.
    #[serde(default = "postgres_port")]
    #[schemars(range(min = 1))]
    pub port: u16,
}

/// How to log in: a role with REPLICATION that may write `lifeboat.heartbeat`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginConfig {
    /// The role; or where its name is found, where each rotation or lease has another one.
    pub user: LoginUser,
    /// The role whose rights they all have, as members, where the name of `user` is found elsewhere.
    #[schemars(extend("format" = "filled"))]
    pub member_of: Option<String>,
    /// Where its password is found; none is sent when absent.
    pub password: Option<SecretRef>,
    /// How the connection is protected.
    #[serde(default)]
    pub sslmode: SslMode,
    /// PEM file of the authority that signed the server's certificate; the system's when absent.
    pub sslrootcert: Option<std::path::PathBuf>,
    /// PEM file of our own certificate, and those between it and the authority that the server
    /// trusts, for a server that asks for one; with `sslkey`.
    pub sslcert: Option<std::path::PathBuf>,
    /// PEM file of the key that belongs to `sslcert`; nobody but this process's user may be able to read it.
    pub sslkey: Option<std::path::PathBuf>,
    /// The database that holds `lifeboat.heartbeat`.
    #[serde(default = "postgres_dbname")]
    pub dbname: String,
}

/// Who logs in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum LoginUser {
    /// The role's name.
    Written(#[schemars(extend("format" = "filled"))] String),
    /// Where the name is found, beside its password.
    Referred(SecretRef),
}

impl LoginConfig {
    /// The role whose rights we have, by the one that logs in or as a member of it.
    pub fn role(&self) -> &str {
        match (&self.user, &self.member_of) {
            (LoginUser::Written(user), _) => user,
            (LoginUser::Referred(_), Some(role)) => role,
            // The rules of the configuration have refused this.
            (LoginUser::Referred(_), None) => "",
        }
    }
}

fn postgres_dbname() -> String {
    "postgres".to_owned()
}

/// How a connection is protected.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// Plain text.
    Disable,
    /// Encrypts; does not check who answers.
    Require,
    /// Encrypts and checks the server's certificate and name. Over a Unix socket nothing is encrypted.
    #[default]
    VerifyFull,
}

/// One line of the backup schedule.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupScheduleConfig {
    /// What kind of backup to take. An `incremental` one holds what has changed since
    /// the newest backup (PostgreSQL 17 and later), a `differential` one the files that
    /// have changed since the newest full backup (any version).
    pub kind: BackupKind,
    /// Minute, hour, day, month and weekday in the schedule's zone; seconds may come first.
    #[schemars(extend("format" = "cron"))]
    pub cron: String,
    /// Up to how much later than due its runs begin, so that not all databases are
    /// busy at the same moment: how much follows from the database's name.
    pub jitter: Option<Span>,
    /// How long after it is due a run may begin, where something holds it back or no
    /// daemon lived; until the next one is due when absent.
    pub start_window: Option<Span>,
    /// What becomes of a run whose time passed while no daemon lived.
    #[serde(default)]
    pub catch_up: CatchUp,
    /// A full backup that no other builds upon; kept beyond `wal.window` it
    /// needs just the WAL that was written while it ran.
    #[serde(default)]
    pub standalone: bool,
    /// For this line instead of the database's `backup_from`.
    pub backup_from: Option<BackupFrom>,
    /// For this line instead of the database's `backup_rate_max`.
    pub backup_rate_max: Option<ByteSize>,
    /// How many periods to keep the newest backup of; nothing of this line ever
    /// expires when absent.
    #[schemars(extend("propertyNames" = {"enum": KeepPeriod::ALL.map(KeepPeriod::as_str)}))]
    pub keep: Option<BTreeMap<KeepPeriod, u32>>,
}

/// A time in which runs do not begin.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlackoutConfig {
    /// `Sat 12:00` every week, or `2026-12-26 12:00` once, in the schedule's zone.
    #[schemars(extend("format" = "edge"))]
    pub start: String,
    /// In the same form; the minute itself belongs to it no more.
    #[schemars(extend("format" = "edge"))]
    pub end: String,
    /// What it holds back; drills and restore tests when absent.
    #[serde(default = "held_when_absent")]
    pub holds: Vec<HeldFlow>,
}

/// What a blackout can hold back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeldFlow {
    /// Backups by schedule.
    Backup,
    Drill,
    /// Restore tests by schedule.
    RestoreTest,
}

impl HeldFlow {
    /// The flow's name in a run's id.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Drill => "drill",
            Self::RestoreTest => "restore_test",
        }
    }

    /// The flows that it means: a self-test is a restore test too.
    pub fn flows(self) -> Vec<String> {
        let further = (self == Self::RestoreTest).then_some(kind::SELF_TEST);
        [self.as_str()].into_iter().chain(further).map(str::to_owned).collect()
    }
}

fn held_when_absent() -> Vec<HeldFlow> {
    drills_and_tests().to_vec()
}

/// What a blackout holds that does not say.
pub(super) const fn drills_and_tests() -> [HeldFlow; 2] {
    [HeldFlow::Drill, HeldFlow::RestoreTest]
}

/// How the copies to the further vaults are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CopyConfig {
    /// A vault that lacks a backup for longer is a finding; `6h` when absent.
    #[serde(default = "six_hours")]
    pub lag_max: Span,
}

fn six_hours() -> Span {
    Span::from_secs(6 * 3600)
}

impl Default for CopyConfig {
    fn default() -> Self {
        Self { lag_max: six_hours() }
    }
}

/// How WAL is kept.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WalConfig {
    /// Must be true: a backup is worth nothing without the WAL written while it ran.
    pub stream: bool,
    /// How far back every instant can be restored.
    pub window: Span,
    /// How often the open segment is made durable in the vaults; the recovery point follows it.
    #[serde(default = "one_second")]
    pub flush_every: Span,
    /// How much WAL the disk of the primary has room for beside everything else, such
    /// as `50GiB`: so it can be told how long WAL may pile up there before it is full.
    /// Measured where the server is on this machine and the role may see its settings.
    pub room_on_primary: Option<ByteSize>,
}

/// Of a database whose WAL we never see: no rule reads it.
impl Default for WalConfig {
    fn default() -> Self {
        Self { stream: false, window: Span::from_secs(0), flush_every: one_second(), room_on_primary: None }
    }
}

fn one_second() -> Span {
    Span::from_secs(1)
}

/// How the vaults are verified. Names, sizes, versions, signatures and gaps in
/// the WAL are looked at every time; of the content a share is read.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyConfig {
    /// How often each vault is verified.
    #[serde(default = "one_day")]
    pub every: Span,
    /// How much of the content is read and decrypted each time, by rotation.
    #[serde(default = "five_percent")]
    pub sample: Share,
    /// Within which time everything must have been read once.
    #[serde(default = "thirty_days")]
    pub period: Span,
}

impl Default for VerifyConfig {
    fn default() -> Self {
        Self { every: one_day(), sample: five_percent(), period: thirty_days() }
    }
}

fn one_day() -> Span {
    Span::from_secs(86_400)
}

const fn five_percent() -> Share {
    Share::percent(5)
}

fn thirty_days() -> Span {
    Span::from_secs(30 * 86_400)
}

/// When and how backups are proven.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreTestConfig {
    /// Minute, hour, day, month and weekday in the schedule's zone; seconds may come first.
    #[schemars(extend("format" = "cron"))]
    pub cron: String,
    /// Up to how much later than due its runs begin, so that not all databases are
    /// busy at the same moment: how much follows from the database's name.
    pub jitter: Option<Span>,
    /// How long after it is due a run may begin, where something holds it back or no
    /// daemon lived; until the next one is due when absent.
    pub start_window: Option<Span>,
    /// What becomes of a run whose time passed while no daemon lived.
    #[serde(default)]
    pub catch_up: CatchUp,
    /// Which recovery point is restored.
    pub recovery_point: RecoveryPointConfig,
    /// Where it is restored to.
    #[serde(default)]
    pub target: RestoreTargetConfig,
    /// What is asked of the copy; at least one check.
    pub checks: Vec<CheckConfig>,
    /// How long recovery may take before the test fails; at a provider, how long it may take
    /// to make the instance, and as long again to remove it.
    #[serde(default = "one_hour")]
    pub limit: Span,
    /// When faults are planted into a restore test, each of which has to turn red; every
    /// Sunday at 01:00 when absent.
    #[serde(default)]
    pub self_test: SelfTestConfig,
}

/// When faults are planted into a restore test. It restores once, beside the tests that
/// are due by `restore_test.cron`; a blackout that holds those holds it too.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SelfTestConfig {
    /// Minute, hour, day, month and weekday in the schedule's zone; seconds may come first.
    #[serde(default = "sundays")]
    #[schemars(extend("format" = "cron"))]
    pub cron: String,
    /// Up to how much later than due its runs begin, so that not all databases are
    /// busy at the same moment: how much follows from the database's name.
    #[serde(default = "four_hours")]
    pub jitter: Span,
    /// How long after it is due a run may begin, where something holds it back or no
    /// daemon lived; until the next one is due when absent.
    pub start_window: Option<Span>,
    /// What becomes of a run whose time passed while no daemon lived.
    #[serde(default)]
    pub catch_up: CatchUp,
}

impl Default for SelfTestConfig {
    fn default() -> Self {
        Self { cron: sundays(), jitter: four_hours(), start_window: None, catch_up: CatchUp::default() }
    }
}

fn sundays() -> String {
    "0 1 * * 0".to_owned()
}

fn four_hours() -> Span {
    Span::from_secs(4 * 3600)
}

fn one_hour() -> Span {
    Span::from_secs(3600)
}

/// Where a test restores to.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RestoreTargetConfig {
    /// An isolated instance on this machine.
    Local(LocalTargetConfig),
    /// An isolated instance of the provider that runs the database.
    Rds(Box<RdsTargetConfig>),
}

impl Default for RestoreTargetConfig {
    fn default() -> Self {
        Self::Local(LocalTargetConfig::default())
    }
}

/// An isolated instance on this machine, and what it may use of it. How long it may
/// recover is the test's `limit`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalTargetConfig {
    /// How much memory each process of the copy's server may have, as address space;
    /// all that there is when absent.
    pub memory: Option<ByteSize>,
    /// How much the copy may take of the disk, with its WAL; all that is free when absent.
    pub disk: Option<ByteSize>,
}
