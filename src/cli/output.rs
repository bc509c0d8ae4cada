//! Where commands print. Whoever reads may stop early, as `| head` does: what is
//! left to say is then dropped, and the command goes on to its own end and exit
//! code. That it cannot be written for another reason, such as a full disk, is
//! an error.

use std::io::{self, ErrorKind, Write};

/// Standard output, for results.
pub fn stdout() -> Output<io::Stdout> {
    Output(io::stdout())
}

/// Prints a line on standard output.
pub fn print(line: &str) -> io::Result<()> {
    let mut out = stdout();
    writeln!(out, "{line}")?;
    // What stays in the buffer would be lost without a word.
    out.flush()
}

/// Prints a line on standard error: what is no result. Nobody is left to be told
/// where that fails.
pub fn say(line: &str) {
    let said = writeln!(io::stderr(), "{line}");
    drop(said);
}

/// A stream whose reader may have gone.
#[derive(Debug)]
pub struct Output<W>(W);

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        unread(self.0.write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        unread(self.0.flush(), ())
    }
}

fn unread<T>(done: io::Result<T>, dropped: T) -> io::Result<T> {
    match done {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(dropped),
        done => done,
    }
}
