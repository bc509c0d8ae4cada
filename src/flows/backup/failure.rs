//! Why an attempt at an upload came to nothing, and so whether another member, or
//! another kind of backup, is worth one.

use crate::{domain::with_causes, engine::EngineError, flow::StepError, vault::VaultError};

/// Why an attempt came to nothing.
pub(super) enum Failure {
    /// The member that was asked did not give it.
    Member(EngineError),
    /// The member that was asked can send no increment upon that parent.
    NoIncrement(String),
    /// What came is no differential upon that parent.
    Unlike(String),
    Other(StepError),
}

impl Failure {
    pub(super) fn of(error: EngineError) -> Self {
        match error {
            EngineError::Sink { source, is_permanent } => match source.downcast::<VaultError>().map(|error| *error) {
                Ok(VaultError::Unlike { what }) => Self::Unlike(what),
                Ok(error) => Self::Other(EngineError::Sink { source: Box::new(error), is_permanent }.into()),
                Err(source) => Self::Other(EngineError::Sink { source, is_permanent }.into()),
            },
            // Another member would fail at the same.
            EngineError::Parent { .. } | EngineError::Stopped => Self::Other(error.into()),
            error => Self::Member(error),
        }
    }

    /// Why that member gave nothing, where another one may.
    pub(super) fn of_member(self) -> Result<String, Self> {
        match self {
            Self::Member(error) => Ok(with_causes(&error)),
            Self::NoIncrement(why) => Ok(why),
            other => Err(other),
        }
    }
}

impl From<StepError> for Failure {
    fn from(error: StepError) -> Self {
        Self::Other(error)
    }
}

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Self {
        Self::Other(error.into())
    }
}

impl From<Failure> for StepError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Member(error) => error.into(),
            Failure::NoIncrement(why) => StepError::permanent(format!("no increment is possible: {why}")),
            Failure::Unlike(what) => VaultError::Unlike { what }.into(),
            Failure::Other(error) => error,
        }
    }
}
