//! What a route says of itself in the API's description: a sentence, what it takes and what it answers.
//!
//! [`described`](super::described) says it of each line of the [table](super::routes::table).

use axum::http::StatusCode;
use serde_json::{Value, json};
use utoipa::ToSchema;

/// The description of one route.
#[derive(Debug, Clone, Default)]
pub(super) struct About {
    /// One sentence.
    pub(super) summary: &'static str,
    pub(super) query: Vec<Parameter>,
    pub(super) takes: Option<Shape>,
    pub(super) answers: Option<Answers>,
    /// It carries an `ETag` and honours `If-Match`.
    pub(super) versioned: bool,
}

/// One thing that may stand in the query string.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    /// A JSON Schema's `type`.
    pub(super) kind: &'static str,
}

/// What comes back when all is well.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answers {
    pub(super) status: StatusCode,
    pub(super) shape: Option<Shape>,
    pub(super) media: &'static str,
}

/// The shape of a body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) kind: Kind,
    name: fn() -> String,
    collect: fn(&mut Vec<(String, Value)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    One,
    /// One, or `null`.
    Maybe,
    List,
}

impl Shape {
    pub(super) fn one<T: ToSchema>() -> Self {
        Self { kind: Kind::One, name: name_of::<T>, collect: collect::<T> }
    }

    pub(super) fn list<T: ToSchema>() -> Self {
        Self { kind: Kind::List, ..Self::one::<T>() }
    }

    pub(super) fn maybe<T: ToSchema>() -> Self {
        Self { kind: Kind::Maybe, ..Self::one::<T>() }
    }

    /// As a schema that refers to the components.
    pub(super) fn schema(&self) -> Value {
        let one = json!({ "$ref": format!("#/components/schemas/{}", (self.name)()) });
        match self.kind {
            Kind::One => one,
            Kind::Maybe => json!({ "oneOf": [one, { "type": "null" }] }),
            Kind::List => json!({ "type": "array", "items": one }),
        }
    }

    /// Its components and theirs, by name.
    pub(super) fn components(&self) -> Vec<(String, Value)> {
        let mut components = Vec::new();
        (self.collect)(&mut components);
        components
    }
}

fn name_of<T: ToSchema>() -> String {
    T::name().into_owned()
}

fn collect<T: ToSchema>(components: &mut Vec<(String, Value)>) {
    let mut schemas = vec![(name_of::<T>(), T::schema())];
    T::schemas(&mut schemas);
    // A schema is a tree of strings and numbers: it serialises.
    components.extend(
        schemas.into_iter().map(|(name, schema)| (name, serde_json::to_value(schema).unwrap_or_default())),
    );
}

/// Begins a description.
pub(super) fn says(summary: &'static str) -> About {
    About { summary, ..About::default() }
}

impl About {
    #[must_use]
    pub(super) fn takes<T: ToSchema>(mut self) -> Self {
        self.takes = Some(Shape::one::<T>());
        self
    }

    #[must_use]
    pub(super) fn answers<T: ToSchema>(self) -> Self {
        self.answering(StatusCode::OK, Some(Shape::one::<T>()))
    }

    /// The same, or `null`.
    #[must_use]
    pub(super) fn may_answer<T: ToSchema>(self) -> Self {
        self.answering(StatusCode::OK, Some(Shape::maybe::<T>()))
    }

    #[must_use]
    pub(super) fn lists<T: ToSchema>(self) -> Self {
        self.answering(StatusCode::OK, Some(Shape::list::<T>()))
    }

    #[must_use]
    pub(super) fn creates<T: ToSchema>(self) -> Self {
        self.answering(StatusCode::CREATED, Some(Shape::one::<T>()))
    }

    /// With a body of this shape and this status.
    #[must_use]
    pub(super) fn answering(mut self, status: StatusCode, shape: Option<Shape>) -> Self {
        self.answers = Some(Answers { status, shape, media: "application/json" });
        self
    }

    /// With something that is no JSON.
    #[must_use]
    pub(super) fn writes(mut self, media: &'static str) -> Self {
        self.answers = Some(Answers { status: StatusCode::OK, shape: None, media });
        self
    }

    #[must_use]
    pub(super) fn asks(mut self, name: &'static str, kind: &'static str, about: &'static str) -> Self {
        self.query.push(Parameter { name, about, kind });
        self
    }

    /// It takes `limit` and `after`, and links to the next page.
    #[must_use]
    pub(super) fn pages(self) -> Self {
        self.asks("limit", "integer", "At most so many, 1 to 1000.").asks(
            "after",
            "string",
            "Only what comes behind this cursor, from the Link header of the page before.",
        )
    }

    /// It carries an `ETag` and honours `If-Match`.
    #[must_use]
    pub(super) fn versioned(mut self) -> Self {
        self.versioned = true;
        self
    }
}
