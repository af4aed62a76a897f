//! The `#[mayfly_sdk::handler]` attribute. Use it through `mayfly_sdk`; it has no other crates below it, so that a
//! handler's first build stays short.

use proc_macro::{Delimiter, Span, TokenStream, TokenTree};

/// Makes a function the handler of this component: it is called once for each HTTP request.
///
/// The function takes a `mayfly_sdk::Request` and returns `Result<mayfly_sdk::Response, mayfly_sdk::Error>`. Put the
/// attribute on one function of a crate with `crate-type = ["cdylib"]`.
///
/// ```ignore
/// #[mayfly_sdk::handler]
/// fn handle(request: Request) -> Result<Response, Error> {
///     Ok(Response::text(format!("you asked for {}", request.path())))
/// }
/// ```
#[proc_macro_attribute]
pub fn handler(arguments: TokenStream, item: TokenStream) -> TokenStream {
    if let Some(argument) = arguments.into_iter().next() {
        return error(argument.span(), "`handler` takes no arguments");
    }
    let name = match function_name(item.clone()) {
        Ok(name) => name,
        Err((span, message)) => return error(span, message),
    };
    // The symbol is exported for WebAssembly only, so that `cargo test` on the developer's machine links.
    let export = format!(
        r#"
        const _: fn(::mayfly_sdk::Request) -> ::core::result::Result<::mayfly_sdk::Response, ::mayfly_sdk::Error> = {name};
        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code)]
        const _: () = {{
            struct Handler;
            impl ::mayfly_sdk::__private::Guest for Handler {{
                fn handle(
                    request: ::mayfly_sdk::__private::IncomingRequest,
                    answer: ::mayfly_sdk::__private::ResponseOutparam,
                ) {{
                    ::mayfly_sdk::__private::serve(request, answer, {name});
                }}
            }}
            ::mayfly_sdk::__private::export!(Handler with_types_in ::mayfly_sdk::bindings);
        }};
        "#
    );
    let mut output = item;
    output.extend(export.parse::<TokenStream>().expect("the template above is Rust"));
    output
}

/// The name of the function that `item` defines.
fn function_name(item: TokenStream) -> Result<String, (Span, &'static str)> {
    let mut tokens = item.into_iter();
    while let Some(token) = tokens.next() {
        let TokenTree::Ident(word) = &token else { continue };
        match word.to_string().as_str() {
            "async" => return Err((word.span(), "a handler is not async; calls to models simply wait")),
            "fn" => {
                let Some(TokenTree::Ident(name)) = tokens.next() else { break };
                return match tokens.next() {
                    Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis => {
                        Ok(name.to_string())
                    }
                    _ => Err((name.span(), "a handler has no generic parameters")),
                };
            }
            "struct" | "enum" | "impl" | "mod" | "trait" | "static" | "type" => break,
            _ => {}
        }
    }
    Err((Span::call_site(), "put `#[mayfly_sdk::handler]` on a function"))
}

/// A compile error at `span`.
fn error(span: Span, message: &str) -> TokenStream {
    let call: TokenStream =
        format!("::core::compile_error!({message:?});").parse().expect("a string literal in a macro call");
    call.into_iter()
        .map(|mut token| {
            token.set_span(span);
            token
        })
        .collect()
}
