//! Items as users see them: without documentation, bodies and private fields.

use syn::{Attribute, Fields, File, ImplItem, Item, ItemImpl, Meta, TraitItem, Visibility, parse_quote};

use super::crate_source::{PublicItem, is_shown};

pub(super) fn render_item(item: &PublicItem<'_>) -> String {
    match item {
        PublicItem::Local { item, .. } => unparse(stripped((*item).clone())),
        PublicItem::Reexport(line) => line.clone(),
    }
}

/// Returns the public methods, and a line for each trait.
pub(super) fn render_impls(blocks: &[&ItemImpl]) -> String {
    let (traits, inherent): (Vec<_>, Vec<_>) = blocks.iter().partition(|block| block.trait_.is_some());
    let inherent = inherent.into_iter().filter_map(public_methods).map(unparse);
    let mut headers: Vec<String> = traits.into_iter().map(header).collect();
    headers.sort();
    inherent.chain(headers).collect()
}

fn stripped(mut item: Item) -> Item {
    match &mut item {
        Item::Struct(item) => {
            keep_interface(&mut item.attrs);
            keep_public(&mut item.fields);
        }
        Item::Enum(item) => {
            keep_interface(&mut item.attrs);
            for variant in &mut item.variants {
                keep_interface(&mut variant.attrs);
                variant.fields.iter_mut().for_each(|field| field.attrs.clear());
            }
        }
        Item::Trait(item) => {
            keep_interface(&mut item.attrs);
            item.items.retain_mut(strip_trait_item);
        }
        Item::Fn(item) => {
            keep_interface(&mut item.attrs);
            item.block = parse_quote!({});
        }
        Item::Const(item) => keep_interface(&mut item.attrs),
        Item::Static(item) => keep_interface(&mut item.attrs),
        Item::Type(item) => keep_interface(&mut item.attrs),
        _ => {}
    }
    item
}

fn strip_trait_item(item: &mut TraitItem) -> bool {
    let attributes = match item {
        TraitItem::Fn(function) => {
            if let Some(body) = &mut function.default {
                *body = parse_quote!({});
            }
            &mut function.attrs
        }
        TraitItem::Type(item) => &mut item.attrs,
        TraitItem::Const(item) => &mut item.attrs,
        _ => return false,
    };
    let is_shown = is_shown(attributes);
    keep_interface(attributes);
    is_shown
}

/// Keeps the attributes that users notice.
fn keep_interface(attributes: &mut Vec<Attribute>) {
    attributes.retain(|attribute| {
        ["derive", "non_exhaustive", "deprecated"].iter().any(|name| attribute.path().is_ident(name))
    });
    for attribute in attributes.iter_mut().filter(|attribute| attribute.path().is_ident("derive")) {
        keep_traits(attribute);
    }
}

/// Removes the derives that implement no trait of the type itself.
fn keep_traits(attribute: &mut Attribute) {
    let Meta::List(list) = &attribute.meta else { return };
    let tokens = list.tokens.to_string();
    let kept = tokens.split(',').map(str::trim).filter(|name| !name.contains("ToSchema"));
    let kept: proc_macro2::TokenStream = kept.collect::<Vec<_>>().join(", ").parse().unwrap();
    *attribute = parse_quote!(#[derive(#kept)]);
}

fn keep_public(fields: &mut Fields) {
    let is_private = |field: &syn::Field| !matches!(field.vis, Visibility::Public(_));
    match fields {
        Fields::Named(named) => {
            let kept = named.named.iter().filter(|field| !is_private(field)).cloned();
            named.named = kept.collect();
        }
        Fields::Unnamed(unnamed) => {
            let private = unnamed.unnamed.iter_mut().filter(|field| is_private(field));
            private.for_each(|field| field.ty = parse_quote!(_));
        }
        Fields::Unit => {}
    }
    fields.iter_mut().for_each(|field| field.attrs.clear());
}

fn public_methods(block: &ItemImpl) -> Option<Item> {
    let mut block = block.clone();
    block.attrs.clear();
    block.items.retain_mut(|item| {
        let (attributes, visibility) = match item {
            ImplItem::Fn(function) => {
                function.block = parse_quote!({});
                (&mut function.attrs, &function.vis)
            }
            ImplItem::Const(item) => (&mut item.attrs, &item.vis),
            _ => return false,
        };
        let is_shown = is_shown(attributes) && matches!(visibility, Visibility::Public(_));
        keep_interface(attributes);
        is_shown
    });
    (!block.items.is_empty()).then_some(Item::Impl(block))
}

/// Returns the first line of a block that implements a trait.
fn header(block: &ItemImpl) -> String {
    let mut block = block.clone();
    block.attrs.clear();
    block.items.clear();
    unparse(Item::Impl(block))
}

/// Formats an item. A body is a semicolon.
fn unparse(item: Item) -> String {
    let file: File = parse_quote!(#item);
    let text = prettyplease::unparse(&file);
    let lines = text.lines().map(|line| match line.strip_suffix(" {}") {
        Some(signature) if !signature.trim_start().starts_with("pub struct") => format!("{signature};\n"),
        _ => format!("{line}\n"),
    });
    lines.collect()
}
