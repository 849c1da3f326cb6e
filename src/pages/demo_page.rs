//! The demo page and what it shows.

use serde::Serialize;

/// Credentials of the demo's user.
#[derive(Clone, Debug, Serialize)]
pub struct DemoCredentials {
    /// Email address.
    pub email: String,
    /// Password, if the sign-in page shows it.
    pub password: Option<String>,
}

/// The page of the demo: requests and movies.
#[derive(Clone, Debug, Serialize)]
pub struct DemoPage {
    /// The address of the user.
    pub email: String,
    /// Lifetime of access tokens in seconds.
    pub access_ttl: u64,
    /// The section of movies.
    pub movies: MoviesSection,
}

/// The section of movies.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "view", rename_all = "snake_case")]
pub enum MoviesSection {
    /// The form for one movie.
    Form(MovieForm),
    /// The list.
    List(MovieList),
}

/// A page of the list of movies.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MovieList {
    /// True if the user may change movies.
    pub can_edit: bool,
    /// The action before.
    pub notice: Option<MovieNotice>,
    /// The filter.
    pub filter: MovieFilter,
    /// The order: a field, with the prefix `-` for descending order.
    pub sort: String,
    /// The columns.
    pub columns: Vec<MovieColumn>,
    /// The movies on this page.
    pub items: Vec<MovieRow>,
    /// Number of the first movie on this page, from 1.
    pub first: u64,
    /// Number of the last movie on this page.
    pub last: u64,
    /// Number of matching movies on all pages.
    pub total: u64,
    /// The address of the previous page.
    pub previous: Option<String>,
    /// The address of the next page.
    pub next: Option<String>,
}

/// The filter of a list, as it was typed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MovieFilter {
    /// Part of the title.
    pub title: String,
    /// Part of the director's name.
    pub director: String,
    /// The year.
    pub year: String,
}

/// A column of a list.
#[derive(Clone, Debug, Serialize)]
pub struct MovieColumn {
    /// The field to sort by, as in `sort=-year`.
    #[serde(skip)]
    pub field: &'static str,
    /// The key of its text.
    pub label: &'static str,
    /// The address of the list in the order of this column.
    pub url: String,
    /// The direction, if the list is in the order of this column: `ascending` or `descending`.
    pub sorted: Option<&'static str>,
}

impl MovieColumn {
    /// Returns the columns, without addresses.
    #[must_use]
    pub fn all() -> [Self; 4] {
        [
            ("title", "movies.name"),
            ("director", "movies.director"),
            ("year", "movies.year"),
            ("runtime_minutes", "movies.minutes"),
        ]
        .map(|(field, label)| Self { field, label, url: String::new(), sorted: None })
    }
}

/// A movie in a list.
#[derive(Clone, Debug, Serialize)]
pub struct MovieRow {
    /// The id.
    pub id: i64,
    /// The title.
    pub title: String,
    /// The director.
    pub director: String,
    /// The year of release.
    pub year: i32,
    /// The running time in minutes.
    pub minutes: Option<i32>,
}

/// The form for a movie, with what was typed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MovieForm {
    /// The address of the form.
    pub action: String,
    /// The address of the form that deletes the movie, unless the movie is new.
    pub delete: Option<String>,
    /// The title.
    pub title: String,
    /// The director.
    pub director: String,
    /// The year of release.
    pub year: String,
    /// The running time in minutes.
    pub minutes: String,
    /// The reason for showing the form again.
    pub error: Option<MovieProblem>,
}

/// The change before a list was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum MovieNotice {
    /// A movie was deleted.
    #[serde(rename = "movies.deleted")]
    Deleted,
    /// A movie was created or changed.
    #[serde(rename = "movies.saved")]
    Saved,
}

/// The field of a form that is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum MovieProblem {
    /// The director.
    #[serde(rename = "movies.invalid_director")]
    Director,
    /// The running time.
    #[serde(rename = "movies.invalid_minutes")]
    Minutes,
    /// The title.
    #[serde(rename = "movies.invalid_title")]
    Title,
    /// The year.
    #[serde(rename = "movies.invalid_year")]
    Year,
}

impl DemoPage {
    /// Returns pages in which every part of every template occurs.
    pub(super) fn examples() -> [Self; 4] {
        let row = MovieRow {
            id: 1,
            title: "Ran".to_owned(),
            director: "Akira Kurosawa".to_owned(),
            year: 1985,
            minutes: None,
        };
        let mut columns = MovieColumn::all();
        columns[0].sorted = Some("ascending");
        let list = MovieList {
            can_edit: true,
            notice: Some(MovieNotice::Saved),
            columns: columns.into(),
            items: vec![row.clone(), MovieRow { minutes: Some(162), ..row }],
            total: 2,
            previous: Some("/".to_owned()),
            next: Some("/?page=3".to_owned()),
            ..MovieList::default()
        };
        let form = MovieForm {
            delete: Some("/demo/movies/1/delete".to_owned()),
            error: Some(MovieProblem::Title),
            ..MovieForm::default()
        };
        [
            MoviesSection::List(list),
            MoviesSection::List(MovieList::default()),
            MoviesSection::Form(form),
            MoviesSection::Form(MovieForm::default()),
        ]
        .map(Self::example)
    }

    fn example(movies: MoviesSection) -> Self {
        Self { email: "taro@example.jp".to_owned(), access_ttl: 20, movies }
    }
}
