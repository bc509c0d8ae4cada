//! Runs a program and measures its time and the peak of its memory: the sum of
//! the resident memory of its process and all that descend from it, sampled.

use std::{collections::HashMap, path::Path, time::Duration, time::Instant};

use lifeboat::process::Program;

/// Often enough to see a peak, seldom enough to cost nothing.
const SAMPLE: Duration = Duration::from_millis(25);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) seconds: f64,
    pub(crate) peak_bytes: u64,
}

pub(crate) async fn measured(program: Program, log: &Path) -> Measured {
    let file = std::fs::File::create(log).unwrap();
    let begun = Instant::now();
    let mut child = program.start(file).unwrap();
    let root = child.id().unwrap();
    let mut peak_bytes = 0;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.unwrap(),
            () = tokio::time::sleep(SAMPLE) => peak_bytes = peak_bytes.max(resident(root)),
        }
    };
    let seconds = begun.elapsed().as_secs_f64();
    assert!(status.success(), "{status}: {}", std::fs::read_to_string(log).unwrap());
    Measured { seconds, peak_bytes }
}

/// Resident bytes of a process and its descendants.
pub(crate) fn resident(root: u32) -> u64 {
    let mut parents = HashMap::new();
    let mut sizes = HashMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = rest.split(' ').collect();
        let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        parents.insert(pid, u32::try_from(number(1)).unwrap());
        // Pages of 4 KiB, on every machine this is made for.
        sizes.insert(pid, number(21) * 4096);
    }
    let descends = |mut pid: u32| {
        while let Some(parent) = parents.get(&pid) {
            if pid == root {
                return true;
            }
            pid = *parent;
        }
        false
    };
    sizes.iter().filter(|(pid, _)| descends(**pid)).map(|(_, size)| size).sum()
}

/// The one in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
