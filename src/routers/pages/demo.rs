//! The page of the demo at `/`: a timeline of requests, which its scripts fill, and the movies as `/movies` has them.
//!
//! Movies need no script. The script of the page requests the same addresses and shows their section of movies; it
//! gets the list in place of the redirect after a form, because the session event of a redirect is invisible to it.

use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRef, Path, Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::Uri;
use url::form_urlencoded;

use super::super::auth::MAX_BODY_BYTES;
use super::super::files::route_file;
use super::super::form::Form;
use super::super::movies::{ADMIN_ROLE, RequireAdmin, movie_query};
use super::super::{ApiError, security_headers};
use super::state::{PagesState, SignedIn, View, query_value, see_other};
use crate::identity::Identity;
use crate::models::movie::{Movie, MovieDetails, MovieId};
use crate::navigation::RequestKind;
use crate::pages::{
    DemoPage, MovieColumn, MovieFilter, MovieForm, MovieList, MovieNotice, MovieProblem, MovieRow,
    MoviesSection, Page,
};
use crate::schemas::movie::{InvalidField, MovieListParams, MovieRequest};
use crate::services::movies::Movies;
use crate::services::store::MovieQuery;

/// Settings of the demo page.
#[derive(Clone, Copy, Debug)]
pub struct Demo {
    /// Lifetime of access tokens.
    pub access_ttl: Duration,
}

#[derive(Clone)]
struct DemoState {
    demo: Demo,
    pages: PagesState,
    movies: Movies,
}

impl FromRef<DemoState> for PagesState {
    fn from_ref(state: &DemoState) -> Self {
        state.pages.clone()
    }
}

/// Creates the routes to be wrapped in the session layer, which must reject requests without a session.
pub fn router(demo: Demo, pages: PagesState, movies: Movies) -> Router {
    Router::new()
        .route("/", get(list))
        .route("/demo/movies", post(create))
        .route("/demo/movies/new", get(new_form))
        .route("/demo/movies/{id}", get(form).post(replace))
        .route("/demo/movies/{id}/delete", post(delete))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(DemoState { demo, pages, movies })
}

/// Creates the routes of the stylesheet and the scripts.
pub fn files() -> Router {
    let files = FILES.into_iter().fold(Router::new(), |router, (name, content)| {
        route_file(router, &format!("/assets/{name}"), name, content)
    });
    security_headers::for_pages(files)
}

async fn list(
    State(state): State<DemoState>,
    view: View,
    SignedIn(identity): SignedIn,
    uri: Uri,
) -> Result<Response, ApiError> {
    let notice = match query_value(&uri, DONE).as_deref() {
        Some(DELETED) => Some(MovieNotice::Deleted),
        Some(SAVED) => Some(MovieNotice::Saved),
        _ => None,
    };
    state.show_list(&view, &identity, &ListQuery::from_uri(&uri), notice).await
}

async fn new_form(
    State(state): State<DemoState>,
    view: View,
    SignedIn(identity): SignedIn,
    _: RequireAdmin,
) -> Response {
    state.show(&view, &identity, MoviesSection::Form(form_for(None)))
}

async fn form(
    State(state): State<DemoState>,
    view: View,
    SignedIn(identity): SignedIn,
    _: RequireAdmin,
    Path(id): Path<i64>,
) -> Result<Response, ApiError> {
    let Movie { id, details } = state.movies.find(MovieId(id)).await?;
    let form = MovieForm {
        title: details.title,
        director: details.director,
        year: details.year.to_string(),
        minutes: details.runtime_minutes.map(|minutes| minutes.to_string()).unwrap_or_default(),
        ..form_for(Some(id))
    };
    Ok(state.show(&view, &identity, MoviesSection::Form(form)))
}

async fn create(
    State(state): State<DemoState>,
    view: View,
    SignedIn(identity): SignedIn,
    _: RequireAdmin,
    request: Request,
) -> Result<Response, ApiError> {
    state.save(&view, &identity, None, request).await
}

async fn replace(
    State(state): State<DemoState>,
    view: View,
    SignedIn(identity): SignedIn,
    _: RequireAdmin,
    Path(id): Path<i64>,
    request: Request,
) -> Result<Response, ApiError> {
    state.save(&view, &identity, Some(MovieId(id)), request).await
}

async fn delete(
    State(state): State<DemoState>,
    view: View,
    SignedIn(identity): SignedIn,
    _: RequireAdmin,
    Path(id): Path<i64>,
    request: Request,
) -> Result<Response, ApiError> {
    state.movies.delete(MovieId(id)).await?;
    state.done(RequestKind::of(&request), &view, &identity, MovieNotice::Deleted).await
}

impl DemoState {
    fn show(&self, view: &View, identity: &Identity, movies: MoviesSection) -> Response {
        view.render(&Page::Demo(DemoPage {
            email: identity.email.to_string(),
            access_ttl: self.demo.access_ttl.as_secs(),
            movies,
        }))
    }

    async fn show_list(
        &self,
        view: &View,
        identity: &Identity,
        query: &ListQuery,
        notice: Option<MovieNotice>,
    ) -> Result<Response, ApiError> {
        let (movies, total) = self.movies.list(&query.to_movie_query()?).await?;
        let can_edit = identity.roles.contains(ADMIN_ROLE);
        let list = MovieList { can_edit, notice, ..query.list_of(movies, total) };
        Ok(self.show(view, identity, MoviesSection::List(list)))
    }

    /// Creates a movie, or replaces the one with this id. The form has no rating, which stays.
    async fn save(
        &self,
        view: &View,
        identity: &Identity,
        id: Option<MovieId>,
        request: Request,
    ) -> Result<Response, ApiError> {
        let kind = RequestKind::of(&request);
        let fields = MovieFields::read(request).await?;
        let rating = match id {
            Some(id) => self.movies.find(id).await?.details.rating,
            None => None,
        };
        let details = match fields.check(rating) {
            Ok(details) => details,
            Err(problem) => return Ok(self.show_form_again(view, identity, id, fields, problem)),
        };
        match id {
            Some(id) => _ = self.movies.replace(id, details).await?,
            None => _ = self.movies.create(details).await?,
        }
        self.done(kind, view, identity, MovieNotice::Saved).await
    }

    fn show_form_again(
        &self,
        view: &View,
        identity: &Identity,
        id: Option<MovieId>,
        fields: MovieFields,
        problem: MovieProblem,
    ) -> Response {
        let MovieFields { title, director, year, minutes } = fields;
        let form = MovieForm { title, director, year, minutes, error: Some(problem), ..form_for(id) };
        self.show(view, identity, MoviesSection::Form(form))
    }

    /// Returns to the list: by a redirect, or at once for a script.
    async fn done(
        &self,
        kind: RequestKind,
        view: &View,
        identity: &Identity,
        notice: MovieNotice,
    ) -> Result<Response, ApiError> {
        if kind == RequestKind::Other {
            return self.show_list(view, identity, &ListQuery::default(), Some(notice)).await;
        }
        let word = match notice {
            MovieNotice::Deleted => DELETED,
            MovieNotice::Saved => SAVED,
        };
        Ok(see_other(&format!("/?{DONE}={word}")))
    }
}

/// Returns the empty form for a movie, or for a new one.
fn form_for(id: Option<MovieId>) -> MovieForm {
    let Some(MovieId(id)) = id else {
        return MovieForm { action: "/demo/movies".to_owned(), ..MovieForm::default() };
    };
    MovieForm {
        action: format!("/demo/movies/{id}"),
        delete: Some(format!("/demo/movies/{id}/delete")),
        ..MovieForm::default()
    }
}

/// Filter, order and page of the list, as the query has them.
#[derive(Default)]
struct ListQuery {
    filter: MovieFilter,
    /// Empty for the default.
    sort: String,
    /// Number of pages before this one.
    page: u32,
}

impl ListQuery {
    fn from_uri(uri: &Uri) -> Self {
        let value = |name| query_value(uri, name).unwrap_or_default().trim().to_owned();
        let page: u32 = value("page").parse().unwrap_or(1);
        Self {
            filter: MovieFilter { title: value("title"), director: value("director"), year: value("year") },
            sort: value("sort"),
            page: page.saturating_sub(1),
        }
    }

    fn sort(&self) -> &str {
        if self.sort.is_empty() { DEFAULT_SORT } else { &self.sort }
    }

    fn to_movie_query(&self) -> Result<MovieQuery, ApiError> {
        let MovieFilter { title, director, year } = self.filter.clone();
        movie_query(MovieListParams {
            limit: PAGE_SIZE,
            offset: self.page.saturating_mul(PAGE_SIZE),
            sort: self.sort().to_owned(),
            title: Some(title),
            director: Some(director),
            year: parse_optional("year", &year)?,
        })
    }

    fn list_of(&self, movies: Vec<Movie>, total: u64) -> MovieList {
        let before = u64::from(self.page) * u64::from(PAGE_SIZE);
        let last = before + movies.len() as u64;
        MovieList {
            filter: self.filter.clone(),
            sort: self.sort().to_owned(),
            columns: MovieColumn::all().map(|column| self.column(column)).into(),
            items: movies.into_iter().map(row).collect(),
            first: before + 1,
            last,
            total,
            previous: (self.page > 0).then(|| self.url(self.sort(), self.page - 1)),
            next: (last < total).then(|| self.url(self.sort(), self.page + 1)),
            ..MovieList::default()
        }
    }

    /// Adds address and direction to a column. The column that the list is sorted by reverses the order.
    fn column(&self, column: MovieColumn) -> MovieColumn {
        let descending = format!("-{}", column.field);
        let (sorted, next) = match self.sort() {
            sort if sort == column.field => (Some("ascending"), descending.as_str()),
            sort if sort == descending => (Some("descending"), column.field),
            _ => (None, column.field),
        };
        MovieColumn { url: self.url(next, 0), sorted, ..column }
    }

    fn url(&self, sort: &str, page: u32) -> String {
        let MovieFilter { title, director, year } = &self.filter;
        let page = if page == 0 { String::new() } else { (page + 1).to_string() };
        let sort = if sort == DEFAULT_SORT { "" } else { sort };
        let fields = [
            ("title", title.as_str()),
            ("director", director),
            ("year", year),
            ("sort", sort),
            ("page", &page),
        ];
        let mut query = form_urlencoded::Serializer::new(String::new());
        let query = query.extend_pairs(fields.iter().filter(|(_, value)| !value.is_empty())).finish();
        if query.is_empty() { "/".to_owned() } else { format!("/?{query}") }
    }
}

fn row(movie: Movie) -> MovieRow {
    let MovieDetails { title, year, director, runtime_minutes, .. } = movie.details;
    MovieRow { id: movie.id.0, title, director, year, minutes: runtime_minutes }
}

/// The fields of the form for a movie.
struct MovieFields {
    title: String,
    director: String,
    year: String,
    minutes: String,
}

impl MovieFields {
    async fn read(request: Request) -> Result<Self, ApiError> {
        let mut form = Form::read(request).await?;
        let mut take = |name| form.take(name).unwrap_or_default();
        Ok(Self {
            title: take("title"),
            director: take("director"),
            year: take("year"),
            minutes: take("minutes"),
        })
    }

    /// Checks the fields by the rules of `PUT /movies/{id}`.
    fn check(&self, rating: Option<f64>) -> Result<MovieDetails, MovieProblem> {
        let request = MovieRequest {
            title: self.title.clone(),
            year: self.year.trim().parse().map_err(|_| MovieProblem::Year)?,
            director: self.director.clone(),
            runtime_minutes: parse_optional("runtime_minutes", &self.minutes)
                .map_err(|_| MovieProblem::Minutes)?,
            rating,
        };
        request.check().map_err(|invalid| match invalid.field {
            "director" => MovieProblem::Director,
            "runtime_minutes" => MovieProblem::Minutes,
            "year" => MovieProblem::Year,
            _ => MovieProblem::Title,
        })
    }
}

/// Parses a number that may be left out.
fn parse_optional(field: &'static str, text: &str) -> Result<Option<i32>, InvalidField> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| InvalidField { field, rule: "a number".to_owned() })
}

/// The query parameter for the change before the list, and its values.
const DONE: &str = "done";
const DELETED: &str = "deleted";
const SAVED: &str = "saved";

const DEFAULT_SORT: &str = "title";

/// Number of movies on a page.
const PAGE_SIZE: u32 = 12;

macro_rules! file {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../web/demo/", $name)).as_bytes())
    };
}

const FILES: [(&str, &[u8]); 5] =
    [file!("app.js"), file!("demo.css"), file!("movies.js"), file!("requests.js"), file!("timeline.js")];
