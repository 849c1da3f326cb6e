//! What the tests share.

<<<<<<< HEAD
pub(crate) mod db;
pub(crate) mod http;
=======
pub(crate) mod front;
pub(crate) mod upstream;
>>>>>>> proxy
