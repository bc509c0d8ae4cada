//! Cuts the server's tar archives at member boundaries while they stream, moves
//! tablespaces inside the target, and leaves out what a differential need not hold.
//! Content is passed on without a copy.

use std::path::Path;

use bytes::{Bytes, BytesMut};

use super::{
    VaultError,
    differential::{Base, LeftOut},
};

/// tar's unit: headers are one block, content is padded to whole ones.
pub(super) const BLOCK: usize = 512;

/// What comes out of the splitter, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A member begins: a part may end here.
    Boundary,
    Bytes(Bytes),
}

/// One archive after another goes in, cut anywhere.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    /// The full backup that what comes is a differential upon.
    base: Option<Base>,
    tablespace: Option<u32>,
    header: BytesMut,
    /// Bytes of the current member's content and padding still to come.
    left: u64,
    /// The current member is not part of any backup.
    is_dropped: bool,
    /// The current member is in the base.
    left_out: Option<LeftOut>,
    /// The last member was an extended header, which belongs to the next one.
    is_glued: bool,
    has_ended: bool,
}

fn refuse(what: impl Into<String>) -> VaultError {
    VaultError::Archive { what: what.into() }
}

/// The sum that a header carries of itself, with its own field as spaces.
fn checksum(block: &[u8]) -> u32 {
    block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum()
}

impl Splitter {
    /// For a differential upon this full backup.
    pub(super) fn upon(base: Base) -> Self {
        Self { base: Some(base), ..Self::default() }
    }

    /// An archive begins: the data folder, or a tablespace.
    pub(super) fn archive(&mut self, tablespace: Option<u32>, out: &mut Vec<Piece>) -> Result<(), VaultError> {
        self.finish()?;
        *self = Self { base: self.base.take(), tablespace, ..Self::default() };
        if let Some(oid) = tablespace {
            let folder = made(&format!("tblspc/{oid}/"), None)?;
            let link = made(&format!("pg_tblspc/{oid}"), Some(&format!("../tblspc/{oid}")))?;
            out.extend([Piece::Boundary, Piece::Bytes(folder), Piece::Boundary, Piece::Bytes(link)]);
        }
        Ok(())
    }

    /// The current archive must be at the end of a member.
    pub(super) fn finish(&self) -> Result<(), VaultError> {
        if self.left == 0 && self.header.is_empty() && !self.is_glued {
            Ok(())
        } else {
            Err(refuse("an archive ended in the middle of a member"))
        }
    }

    pub(super) fn push(&mut self, mut bytes: Bytes, out: &mut Vec<Piece>) -> Result<(), VaultError> {
        while !bytes.is_empty() && !self.has_ended {
            if self.left > 0 {
                let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                let content = bytes.split_to(take);
                self.left -= take as u64;
                if let Some(left_out) = &mut self.left_out {
                    left_out.pass(&content);
                } else if !self.is_dropped {
                    out.push(Piece::Bytes(content));
                }
                self.end_left_out()?;
                continue;
            }
            let take = (BLOCK - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes.split_to(take));
            if self.header.len() == BLOCK {
                let block = self.header.split();
                self.member(block, out)?;
            }
        }
        Ok(())
    }

    /// Where all of a member has passed that is left out, it must have been the base's.
    fn end_left_out(&mut self) -> Result<(), VaultError> {
        if self.left > 0 { Ok(()) } else { self.left_out.take().map_or(Ok(()), LeftOut::end) }
    }

    fn member(&mut self, mut block: BytesMut, out: &mut Vec<Piece>) -> Result<(), VaultError> {
        if block.iter().all(|byte| *byte == 0) {
            self.has_ended = true;
            return Ok(());
        }
        let header = tar::Header::from_byte_slice(&block);
        let failed = |error: std::io::Error| refuse(error.to_string());
        if header.cksum().map_err(failed)? != checksum(&block) {
            return Err(refuse("a member's header has a wrong checksum"));
        }
        let kind = header.entry_type();
        let name = String::from_utf8_lossy(&header.path_bytes()).into_owned();
        let name = name.trim_start_matches("./");
        if name.starts_with('/') || name.split('/').any(|part| part == "..") {
            return Err(refuse(format!("it holds the climbing name `{name}`")));
        }
        let has_content = !(kind.is_dir() || kind.is_symlink() || kind.is_hard_link());
        let size = if has_content { header.entry_size().map_err(failed)? } else { 0 };
        self.left = size.checked_next_multiple_of(BLOCK as u64).ok_or_else(|| refuse("a member has no size"))?;
        let is_extension = kind.is_pax_local_extensions()
            || kind.is_pax_global_extensions()
            || kind.is_gnu_longname()
            || kind.is_gnu_longlink();
        // The server sends a map or links, as it was asked to; both name its own
        // folders, and each tablespace's archive brings a link of ours.
        let is_link = kind.is_symlink() && is_tablespace_link(name);
        self.is_dropped = self.tablespace.is_none() && (name == "tablespace_map" || is_link);
        if let Some(base) = self.base.as_ref().filter(|_| kind.is_file() && !self.is_dropped) {
            let member = self.tablespace.map_or_else(|| name.to_owned(), |oid| format!("tblspc/{oid}/{name}"));
            // The name of a member with an extended header is not all of its name.
            let left_out = base.leaves_out(Path::new(&member), size, header.mtime().map_err(failed)?)?;
            self.left_out = left_out.filter(|_| !self.is_glued);
        }
        if let Some(oid) = self.tablespace {
            move_inside(&mut block, &format!("tblspc/{oid}"), name, is_extension)?;
        } else if (kind.is_symlink() && !is_link) || kind.is_hard_link() {
            return Err(refuse(format!("it holds the link `{name}`, which is no tablespace's")));
        }
        if !self.is_dropped && self.left_out.is_none() {
            if !self.is_glued {
                out.push(Piece::Boundary);
            }
            out.push(Piece::Bytes(block.freeze()));
        }
        self.is_glued = is_extension;
        self.end_left_out()
    }
}

/// Puts `folder` before a member's name, in the field that ustar has for it.
fn move_inside(block: &mut BytesMut, folder: &str, name: &str, is_extension: bool) -> Result<(), VaultError> {
    let sound = tar::Header::from_byte_slice(block).as_ustar().is_some_and(|header| header.prefix[0] == 0);
    if is_extension || !sound {
        return Err(refuse(format!("the tablespace member `{name}` has no room for the name of its tablespace")));
    }
    if let Some(prefix) = block.get_mut(345..345 + folder.len()) {
        prefix.copy_from_slice(folder.as_bytes());
    }
    set_checksum(block);
    Ok(())
}

/// The header of a member of our own: a folder, or a link.
fn made(name: &str, link: Option<&str>) -> Result<Bytes, VaultError> {
    let failed = |error: std::io::Error| refuse(error.to_string());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(if link.is_some() { tar::EntryType::Symlink } else { tar::EntryType::Directory });
    header.set_mode(0o700);
    header.set_size(0);
    header.set_mtime(0);
    header.set_path(name).map_err(failed)?;
    link.map_or(Ok(()), |link| header.set_link_name(link)).map_err(failed)?;
    header.set_cksum();
    Ok(Bytes::copy_from_slice(header.as_bytes()))
}

fn is_tablespace_link(name: &str) -> bool {
    name.strip_prefix("pg_tblspc/")
        .map(|oid| oid.trim_end_matches('/'))
        .is_some_and(|oid| !oid.is_empty() && oid.bytes().all(|byte| byte.is_ascii_digit()))
}

fn set_checksum(block: &mut BytesMut) {
    let sum = format!("{:06o}\0 ", checksum(block));
    if let Some(field) = block.get_mut(148..156) {
        field.copy_from_slice(sum.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn archive(members: &[(&str, usize)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, size) in members {
            let mut header = tar::Header::new_ustar();
            header.set_size(*size as u64);
            header.set_mode(0o600);
            builder
                .append_data(&mut header, name, std::iter::repeat_n(7u8, *size).collect::<Vec<_>>().as_slice())
                .unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn joined(pieces: &[Piece]) -> Vec<u8> {
        pieces
            .iter()
            .filter_map(|piece| if let Piece::Bytes(bytes) = piece { Some(bytes.to_vec()) } else { None })
            .flatten()
            .collect()
    }

    fn names(tar: &[u8]) -> Vec<(String, Option<String>)> {
        let text = |path: std::borrow::Cow<'_, Path>| path.to_str().unwrap().to_owned();
        tar::Archive::new(tar)
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (text(entry.path().unwrap()), entry.link_name().unwrap().map(text)))
            .collect()
    }

    proptest! {
        #[test]
        fn wherever_it_is_cut_the_members_come_out_whole(sizes in prop::collection::vec(0usize..2000, 1..6), cut in 1usize..3000) {
            let named: Vec<(String, usize)> = sizes.iter().enumerate().map(|(n, size)| (format!("base/{n}"), *size)).collect();
            let members: Vec<(&str, usize)> = named.iter().map(|(name, size)| (name.as_str(), *size)).collect();
            let tar = archive(&members);
            let (mut splitter, mut out) = (Splitter::default(), Vec::new());
            splitter.archive(None, &mut out).unwrap();
            for chunk in tar.chunks(cut) {
                splitter.push(Bytes::copy_from_slice(chunk), &mut out).unwrap();
            }
            splitter.finish().unwrap();
            let joined = joined(&out);
            prop_assert_eq!(&joined[..], &tar[..joined.len()]);
            prop_assert!(tar[joined.len()..].iter().all(|byte| *byte == 0));
            prop_assert_eq!(out.iter().filter(|piece| **piece == Piece::Boundary).count(), sizes.len());
        }
    }

    #[test]
    fn tablespaces_land_inside_the_target() {
        let mut link = tar::Header::new_ustar();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_link(&mut link, "pg_tblspc/16384", "/srv/production").unwrap();
        let mut map = tar::Header::new_ustar();
        map.set_size(3);
        builder.append_data(&mut map, "tablespace_map", b"map".as_slice()).unwrap();
        let base = builder.into_inner().unwrap();
        let (mut splitter, mut out) = (Splitter::default(), Vec::new());
        splitter.archive(None, &mut out).unwrap();
        splitter.push(base.into(), &mut out).unwrap();
        splitter.archive(Some(16384), &mut out).unwrap();
        splitter.push(archive(&[("PG_15_202209061/5/1", 10)]).into(), &mut out).unwrap();
        assert_eq!(
            names(&joined(&out)),
            [
                ("tblspc/16384/".to_owned(), None),
                ("pg_tblspc/16384".to_owned(), Some("../tblspc/16384".to_owned())),
                ("tblspc/16384/PG_15_202209061/5/1".to_owned(), None),
            ]
        );
    }

    #[test]
    fn what_must_not_be_in_a_backup_is_refused() {
        let mut out = Vec::new();
        let mut link = tar::Header::new_ustar();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_link(&mut link, "base/1", "/etc/passwd").unwrap();
        assert!(Splitter::default().push(builder.into_inner().unwrap().into(), &mut out).is_err());
        let mut tar = archive(&[("base/1", 10)]);
        tar[3] ^= 1;
        assert!(Splitter::default().push(tar.into(), &mut out).is_err());
        let mut cut = Splitter::default();
        cut.push(Bytes::copy_from_slice(&archive(&[("base/1", 1000)])[..900]), &mut out).unwrap();
        assert!(cut.finish().is_err());
    }
}
