//! An error with its causes as one sentence, wherever it leaves the program's
//! types: in journals, findings and on the screen. Never says a thing twice.

use std::error::Error;

/// `what failed: why: why that`; a cause that says the same again is left out.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        #[source]
        source: Option<Box<Layer>>,
    }

    fn layers(texts: &[&'static str]) -> Option<Box<Layer>> {
        let (text, rest) = texts.split_first()?;
        Some(Box::new(Layer { text, source: layers(rest) }))
    }

    #[test]
    fn every_cause_is_told_once() {
        for (texts, told) in [
            (&["cannot store"][..], "cannot store"),
            (&["cannot store", "vault is full", "no space"], "cannot store: vault is full: no space"),
            (&["cannot store: no space", "no space"], "cannot store: no space"),
        ] {
            assert_eq!(with_causes(layers(texts).unwrap().as_ref()), told);
        }
    }
}
