//! Whatever stands in the files, `check` answers; it never panics.

use proptest::prelude::*;

use super::{FILES, Written};

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_problems(bytes in prop::collection::vec(any::<u8>(), 0..300), which in 0_usize..3) {
        let written = Written::examples();
        written.write(FILES[which].0, &bytes);
        prop_assert!(written.load().is_err());
    }

    #[test]
    fn a_spoilt_example_passes_or_has_problems_with_places(
        which in 0_usize..3,
        at in any::<prop::sample::Index>(),
        removed in 0_usize..40,
        inserted in "[ -~\\n\\t:\\[\\]{}&*!|>'\"#-]{0,8}",
    ) {
        let written = Written::examples();
        let (file, _) = FILES[which];
        let mut text: Vec<char> = std::fs::read_to_string(written.path(file)).unwrap().chars().collect();
        let at = at.index(text.len());
        let end = (at + removed).min(text.len());
        text.splice(at..end, inserted.chars());
        let lines = text.iter().filter(|c| **c == '\n').count() + 1;
        written.write(file, text.into_iter().collect::<String>());
        if let Err(problems) = written.load() {
            prop_assert!(!problems.is_empty());
            for problem in problems.iter() {
                prop_assert!(problem.place.line >= 1 && problem.place.column >= 1);
                prop_assert!(!problem.what.is_empty() && !problem.remedy.is_empty());
                prop_assert!(!problem.to_string().contains('\n'), "{}", problem);
                if problem.file.ends_with(file) {
                    prop_assert!(problem.place.line <= lines, "{}", problem);
                }
            }
        }
    }
}
