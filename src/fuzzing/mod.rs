//! Properties of the parsers of untrusted input, for the fuzz targets in `fuzz/` and the test of their corpora.
//!
//! Each function takes any bytes and panics if a property does not hold. The properties of a private parser are defined
//! in the module `fuzzing` beside it. All of this is compiled for tests, and with `--cfg fuzzing`, which cargo-fuzz sets.

mod cookies;
pub(crate) mod divisions;

pub use self::cookies::check_cookie_header;
pub use crate::app::fuzzing::check_forwarded;
pub use crate::proxy::fuzzing::{
    check_chunked_framing, check_request_path, check_response_head, check_websocket_frames,
};
pub use crate::server::fuzzing::check_proxy_protocol;

/// A function that panics if its input violates a property.
pub type Check = fn(&[u8]);

/// The checks with the names of their targets, which are also those of their corpora.
pub const TARGETS: [(&str, Check); 7] = [
    ("chunked_framing", check_chunked_framing),
    ("cookie_header", check_cookie_header),
    ("forwarded", check_forwarded),
    ("proxy_protocol", check_proxy_protocol),
    ("request_path", check_request_path),
    ("response_head", check_response_head),
    ("websocket_frames", check_websocket_frames),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::panic::catch_unwind;
    use std::path::{Path, PathBuf};

    use super::*;

    fn files_in(folder: &str) -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder);
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn names_in(folder: &str) -> BTreeSet<String> {
        let name = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
        files_in(folder).into_iter().map(name).collect()
    }

    #[test]
    fn inputs_of_the_corpora_violate_no_property() {
        for (target, check) in TARGETS {
            let files = files_in(&format!("corpus/{target}"));
            assert!(!files.is_empty(), "the corpus of {target} is empty");
            for file in files {
                let input = fs::read(&file).unwrap();
                assert!(catch_unwind(|| check(&input)).is_ok(), "{}", file.display());
            }
        }
    }

    #[test]
    fn each_target_has_a_check_and_a_corpus() {
        let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names_in("fuzz_targets"), names);
        assert_eq!(names_in("corpus"), names);
    }
}
