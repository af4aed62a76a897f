//! Generated from the `wit` folder two levels above this crate; hidden, because the rest of the crate is its face.

wit_bindgen::generate!({
    path: "../../wit",
    world: "mayfly:inference/handler",
    generate_all,
    pub_export_macro: true,
    export_macro_name: "__export_handler",
    default_bindings_module: "::mayfly_sdk::bindings",
});
