//! A movie of the reference application.

/// Id of a movie, assigned by the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MovieId(pub i64);

/// A movie.
#[derive(Clone, Debug, PartialEq)]
pub struct Movie {
    /// Id.
    pub id: MovieId,
    /// Details.
    pub details: MovieDetails,
}

/// Details of a movie.
#[derive(Clone, Debug, PartialEq)]
pub struct MovieDetails {
    /// Title.
    pub title: String,
    /// Year of release.
    pub year: i32,
    /// Director.
    pub director: String,
    /// Running time in minutes.
    pub runtime_minutes: Option<i32>,
    /// Rating from 0 to 10.
    pub rating: Option<f64>,
}
