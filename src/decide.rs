//! Pure decisions: (facts, now) -> plan or verdict. No I/O, no async, no clock;
//! nothing else of ours but `domain`. Flows carry out what is decided here.

pub mod chain;
pub mod cluster;
pub mod collation;
pub mod copy;
pub mod drill;
pub mod due;
pub mod escrow;
pub mod exposure;
pub mod headroom;
pub mod indexes;
pub mod lineage;
pub mod member;
pub mod parent;
pub mod placement;
pub mod priority;
pub mod recovery;
pub mod retention;
pub mod rotation;
pub mod rpo;
pub mod sample;
pub mod sender;
pub mod slot;
pub mod stretch;
pub mod synchronous;
pub mod tablespaces;
