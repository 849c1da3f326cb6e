//! `/movies`: the reference application. Reading needs a signed-in user, writing the role `admin`.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::http::request::Parts;
use axum::response::IntoResponse;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{ApiError, JsonBody, QueryParams};
use crate::identity::Identity;
use crate::layer::CurrentUser;
use crate::models::movie::MovieId;
use crate::problem::Problem;
use crate::schemas::movie::{MovieListParams, MoviePage, MoviePath, MovieRequest, MovieResponse};
use crate::schemas::problem::{ReadErrorResponses, WriteErrorResponses};
use crate::services::movies::{MovieOrder, Movies};
use crate::services::store::MovieQuery;
use crate::session_event::SessionEvent;

/// Creates the routes, to be wrapped in the session layer, which inserts the user into the request.
#[must_use]
pub fn router() -> OpenApiRouter<Movies> {
    OpenApiRouter::default()
        .routes(routes!(list, create))
        .routes(routes!(find, replace, delete))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
}

/// List movies, one page at a time.
#[utoipa::path(
    get, path = "/movies", tag = "movies", operation_id = "list_movies", params(MovieListParams),
    security(("session" = []), ("bearer" = [])),
    responses(
        (status = 200, description = "One page of the matching movies.", body = MoviePage),
        (status = 400, description = "A parameter is invalid.", body = Problem,
            content_type = Problem::CONTENT_TYPE),
        ReadErrorResponses,
    ),
)]
async fn list(
    _: CurrentUser,
    State(movies): State<Movies>,
    QueryParams(params): QueryParams<MovieListParams>,
) -> Result<Json<MoviePage>, ApiError> {
    let query = movie_query(params)?;
    let (items, total) = movies.list(&query).await?;
    let items = items.into_iter().map(MovieResponse::from).collect();
    Ok(Json(MoviePage { items, total, limit: query.limit, offset: query.offset }))
}

/// Create a movie.
#[utoipa::path(
    post, path = "/movies", tag = "movies", operation_id = "create_movie", request_body = MovieRequest,
    security(("session" = []), ("bearer" = [])),
    responses(
        (status = 201, description = "The movie, with its id.", body = MovieResponse,
            headers(("Location" = String, description = "The movie's URL."))),
        WriteErrorResponses,
    ),
)]
async fn create(
    _: RequireAdmin,
    State(movies): State<Movies>,
    JsonBody(movie): JsonBody<MovieRequest>,
) -> Result<impl IntoResponse, ApiError> {
    let movie = MovieResponse::from(movies.create(movie.check()?).await?);
    let location = format!("/movies/{}", movie.id);
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(movie)))
}

/// Get a movie.
#[utoipa::path(
    get, path = "/movies/{id}", tag = "movies", operation_id = "find_movie", params(MoviePath),
    security(("session" = []), ("bearer" = [])),
    responses(
        (status = 200, description = "The movie.", body = MovieResponse),
        (status = 404, description = "There is no such movie.", body = Problem,
            content_type = Problem::CONTENT_TYPE),
        ReadErrorResponses,
    ),
)]
async fn find(
    _: CurrentUser,
    State(movies): State<Movies>,
    path: Result<Path<MoviePath>, PathRejection>,
) -> Result<Json<MovieResponse>, ApiError> {
    let movie = movies.find(movie_id(path)?).await?;
    Ok(Json(movie.into()))
}

/// Replace a movie.
#[utoipa::path(
    put, path = "/movies/{id}", tag = "movies", operation_id = "replace_movie", params(MoviePath), request_body = MovieRequest,
    security(("session" = []), ("bearer" = [])),
    responses(
        (status = 200, description = "The updated movie.", body = MovieResponse),
        (status = 404, description = "There is no such movie.", body = Problem,
            content_type = Problem::CONTENT_TYPE),
        WriteErrorResponses,
    ),
)]
async fn replace(
    _: RequireAdmin,
    State(movies): State<Movies>,
    path: Result<Path<MoviePath>, PathRejection>,
    JsonBody(movie): JsonBody<MovieRequest>,
) -> Result<Json<MovieResponse>, ApiError> {
    let movie = movies.replace(movie_id(path)?, movie.check()?).await?;
    Ok(Json(movie.into()))
}

/// Delete a movie.
#[utoipa::path(
    delete, path = "/movies/{id}", tag = "movies", operation_id = "delete_movie", params(MoviePath),
    security(("session" = []), ("bearer" = [])),
    responses(
        (status = 204, description = "The movie was deleted."),
        (status = 404, description = "There is no such movie.", body = Problem,
            content_type = Problem::CONTENT_TYPE),
        WriteErrorResponses,
    ),
)]
async fn delete(
    _: RequireAdmin,
    State(movies): State<Movies>,
    path: Result<Path<MoviePath>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    movies.delete(movie_id(path)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Extractor that requires a signed-in user with the role `admin`.
pub(super) struct RequireAdmin;

impl<S: Send + Sync> FromRequestParts<S> for RequireAdmin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        let user = parts.extensions.get::<Identity>();
        if user.ok_or(ApiError::Unauthenticated(SessionEvent::Missing))?.roles.contains(ADMIN_ROLE) {
            return Ok(Self);
        }
        Err(ApiError::Forbidden("Changing movies requires the role `admin`."))
    }
}

/// Checks the parameters of a list.
pub(super) fn movie_query(params: MovieListParams) -> Result<MovieQuery, ApiError> {
    let MovieListParams { limit, offset, sort, title, director, year } = params.check()?;
    let MovieOrder { sort, descending } = sort.parse()?;
    Ok(MovieQuery { title, director, year, sort, descending, limit, offset })
}

/// Returns 404 for an id that is not a number.
fn movie_id(path: Result<Path<MoviePath>, PathRejection>) -> Result<MovieId, ApiError> {
    let Path(MoviePath { id }) = path.map_err(|_| ApiError::NotFound("There is no such movie."))?;
    Ok(MovieId(id))
}

/// The role of users who may change movies.
pub(super) const ADMIN_ROLE: &str = "admin";

/// Maximum size of request bodies, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;
