//! The films that the demo begins with.

use serde::Deserialize;

use crate::models::movie::MovieDetails;

/// Some sixty well-known films. None has a rating: that is a matter of opinion.
#[must_use]
pub fn sample_movies() -> Vec<MovieDetails> {
    #[expect(clippy::expect_used, reason = "the file is part of the program, and a test reads it")]
    let films: Vec<SampleMovie> = serde_json::from_str(FILMS).expect("movies.json holds movies");
    films.into_iter().map(MovieDetails::from).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SampleMovie {
    title: String,
    year: i32,
    director: String,
    runtime_minutes: i32,
}

impl From<SampleMovie> for MovieDetails {
    fn from(SampleMovie { title, year, director, runtime_minutes }: SampleMovie) -> Self {
        Self { title, year, director, runtime_minutes: Some(runtime_minutes), rating: None }
    }
}

const FILMS: &str = include_str!("../../web/movies.json");

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn films_are_plausible() {
        let films = sample_movies();
        assert!((55..=65).contains(&films.len()), "{}", films.len());

        let distinct: HashSet<_> = films.iter().map(|film| (&film.title, film.year)).collect();
        assert_eq!(distinct.len(), films.len());

        for film in &films {
            let minutes = film.runtime_minutes.expect("a running time");
            assert!((1895..=2025).contains(&film.year), "{film:?}");
            assert!((40..=330).contains(&minutes), "{film:?}");
            for text in [&film.title, &film.director] {
                assert!(!text.is_empty() && text.trim() == text, "{film:?}");
            }
        }
    }
}
