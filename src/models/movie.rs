//! A movie of the reference application.

/// A movie's id, given by the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MovieId(pub i64);

/// One movie.
#[derive(Clone, Debug, PartialEq)]
pub struct Movie {
    /// Its id.
    pub id: MovieId,
    /// What is known of it.
    pub details: MovieDetails,
}

/// What is known of a movie.
#[derive(Clone, Debug, PartialEq)]
pub struct MovieDetails {
    /// The title.
    pub title: String,
    /// The year it came out.
    pub year: i32,
    /// Who directed it.
    pub director: String,
    /// How long it runs, in minutes.
    pub runtime_minutes: Option<i32>,
    /// How it is rated, from 0 to 10.
    pub rating: Option<f64>,
}
