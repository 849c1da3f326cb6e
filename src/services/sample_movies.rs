//! Sample movies of the demo.

use serde::Deserialize;

use crate::models::movie::MovieDetails;

/// Returns about sixty well-known movies, without ratings.
#[must_use]
pub fn sample_movies() -> Vec<MovieDetails> {
    #[expect(clippy::expect_used, reason = "the file is embedded, and a test parses it")]
    let movies: Vec<SampleMovie> = serde_json::from_str(MOVIES).expect("movies.json holds movies");
    movies.into_iter().map(MovieDetails::from).collect()
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

const MOVIES: &str = include_str!("../../web/demo/movies.json");

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn sample_movies_are_plausible() {
        let movies = sample_movies();
        assert!((55..=65).contains(&movies.len()), "{}", movies.len());

        let distinct: HashSet<_> = movies.iter().map(|movie| (&movie.title, movie.year)).collect();
        assert_eq!(distinct.len(), movies.len());

        for movie in &movies {
            let minutes = movie.runtime_minutes.expect("a running time");
            assert!((1895..=2025).contains(&movie.year), "{movie:?}");
            assert!((40..=330).contains(&minutes), "{movie:?}");
            for text in [&movie.title, &movie.director] {
                assert!(!text.is_empty() && text.trim() == text, "{movie:?}");
            }
        }
    }
}
