//! `lifeboat schema`: the JSON Schemas of what operators write, for editors.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::config::{DaemonConfig, RunbookConfig, ScheduleConfig, load::schema_of};

/// Prints one JSON document with a schema per kind of file. Answers the exit code.
pub fn run(out: &mut impl Write) -> io::Result<u8> {
    writeln!(out, "{:#}", schemas())?;
    Ok(0)
}

/// By kind of file.
pub fn schemas() -> Value {
    json!({
        "lifeboat.yaml": schema_of::<DaemonConfig>(),
        "schedules/*.yaml": schema_of::<ScheduleConfig>(),
        "runbooks/*.yaml": schema_of::<RunbookConfig>(),
    })
}
