//! Models that are made to do harm. At import they are refused with a reason, in bounded time; what only shows when an
//! approved model runs fails as that run's error, the process lives and its memory comes back.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::Server;
use crate::onnx::{FLOAT, Graph, INT32, INT64, Message, STRING};
use crate::onnx::{constant, int64s, integer, node, node_of, subgraph, tensor, value};

/// An import that must be refused: text that says one of `says`, soon, and nothing of this host in it.
fn refused(server: &Server, what: &str, graph: &Graph, functions: &[Message], says: &[&str]) {
    let folder = TempDir::new().unwrap();
    let file = graph.save(folder.path(), functions);
    let begin = Instant::now();
    let output = server.cli(&["models", "add", "bad", file.to_str().unwrap()]);
    let took = begin.elapsed();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{what} was taken");
    assert!(says.iter().any(|says| text.contains(says)), "{what}: {text}");
    assert!(took < Duration::from_secs(180), "{what} took {took:?}");
    assert!(!text.contains(server.folder.path().to_str().unwrap()), "{what}: no host path: {text}");
    assert!(text.len() < 3_000, "{what}: a reason, not a book: {} bytes", text.len());
}

/// `body` inside `op`s, one in the other.
fn nested(op: &str, depth: usize) -> Graph {
    let leaf = |name: &str| Graph {
        nodes: vec![node("Identity", &["x"], &[name], &[])],
        outputs: vec![value(name, FLOAT, &[-1])],
        ..Graph::default()
    };
    let mut inner = leaf("y0");
    for level in 1..=depth {
        let name = format!("y{level}");
        let (condition, from) = (format!("c{level}"), format!("y{}", level - 1));
        let truth = constant("value", &tensor("t", 9, &[], &[1]));
        let holds = match op {
            "If" => {
                let other = leaf(&from);
                vec![subgraph("then_branch", &inner.message()), subgraph("else_branch", &other.message())]
            }
            _ => {
                let mut body = inner.clone();
                body.inputs = vec![value("i", INT64, &[]), value("on", 9, &[])];
                body.outputs.insert(0, value("on", 9, &[]));
                vec![subgraph("body", &body.message())]
            }
        };
        let inputs: &[&str] = if op == "If" { &[&condition] } else { &["", &condition] };
        inner = Graph {
            nodes: vec![node("Constant", &[], &[&condition], &[truth]), node(op, inputs, &[&name], &holds)],
            outputs: vec![value(&name, FLOAT, &[-1])],
            ..Graph::default()
        };
    }
    inner.inputs = vec![value("x", FLOAT, &[-1])];
    inner
}

#[test]
fn graphs_that_are_no_graphs() {
    let server = Server::start();
    for op in ["If", "Loop"] {
        refused(&server, "nested too deep", &nested(op, 9), &[], &["nested more than 8"]);
        refused(&server, "nested far too deep", &nested(op, 60), &[], &["nested more than 8", "nested too deep"]);
    }
    let circle = Graph {
        nodes: vec![node("Add", &["x", "b"], &["a"], &[]), node("Add", &["a", "x"], &["b"], &[])],
        outputs: vec![value("a", FLOAT, &[-1])],
        inputs: vec![value("x", FLOAT, &[-1])],
        ..Graph::default()
    };
    refused(&server, "a circle", &circle, &[], &["first load failed"]);
    let itself = Graph::one(node("Add", &["x", "y"], &["y"], &[]), Vec::new());
    refused(&server, "a node that feeds itself", &itself, &[], &["first load failed"]);
    let twice = Graph {
        nodes: vec![node("Relu", &["x"], &["y"], &[]), node("Neg", &["x"], &["y"], &[])],
        ..Graph::one(Message::default(), Vec::new())
    };
    refused(&server, "a name given twice", &twice, &[], &["first load failed"]);
    let outputs = vec![value("y", FLOAT, &[-1]), value("y", FLOAT, &[-1])];
    let double = Graph { outputs, ..Graph::one(node("Relu", &["x"], &["y"], &[]), Vec::new()) };
    refused(&server, "two outputs of one name", &double, &[], &["two outputs are named"]);

    let function = |name: &str, calls: &[&str]| {
        let mut nodes: Vec<Message> = calls.iter().map(|callee| node_of("own", callee, &["a"], &["b"], &[])).collect();
        if nodes.is_empty() {
            nodes.push(node("Relu", &["a"], &["b"], &[]));
        }
        let opset = Message::default().text(1, "").number(2, 17);
        Message::default()
            .text(1, name)
            .text(4, "a")
            .text(5, "b")
            .messages(7, &nodes)
            .message(9, &opset)
            .text(10, "own")
    };
    let call = Graph::one(node_of("own", "f", &["x"], &["y"], &[]), Vec::new());
    refused(&server, "a function that calls itself", &call, &[function("f", &["f"])], &["calls itself"]);
    let each_other = [function("f", &["g"]), function("g", &["f"])];
    refused(&server, "functions that call each other", &call, &each_other, &["calls itself"]);
    let names: Vec<String> = (0..24).map(|level| format!("f{level}")).collect();
    let mut doubling: Vec<Message> =
        (0..23).map(|level| function(&names[level], &[&names[level + 1], &names[level + 1]])).collect();
    doubling.push(function("f23", &[]));
    let call = Graph::one(node_of("own", "f0", &["x"], &["y"], &[]), Vec::new());
    refused(&server, "functions that double", &call, &doubling, &["more than 500000 nodes"]);

    let mut many = Graph::one(Message::default(), Vec::new());
    many.nodes = vec![node("Relu", &["x"], &["y"], &[]); 500_001];
    refused(&server, "too many nodes", &many, &[], &["more than 500000 nodes"]);
    let strange = Graph::one(node_of("evil", "Load", &["x"], &["y"], &[]), Vec::new());
    refused(&server, "a domain of its own", &strange, &[], &["evil"]);
    let compiled = Graph::one(node_of("com.microsoft", "EPContext", &["x"], &["y"], &[]), Vec::new());
    refused(&server, "compiled code", &compiled, &[], &["EPContext"]);
}

#[test]
fn tensors_that_lie() {
    let server = Server::start();
    let add = |weight: Message| Graph::one(node("Add", &["x", "w"], &["y"], &[]), vec![weight]);
    for (what, weight, says) in [
        ("too few bytes", tensor("w", FLOAT, &[4], &[0; 15]), "has 15 bytes of data and needs 16"),
        ("too many bytes", tensor("w", FLOAT, &[4], &[0; 17]), "needs 16"),
        ("a negative dimension", tensor("w", FLOAT, &[-1], &[0; 4]), "negative dimension"),
        ("a product that overflows", tensor("w", FLOAT, &[i64::MAX, i64::MAX], &[0; 4]), "too large"),
        ("a product that overflows to 0", tensor("w", FLOAT, &[1 << 32, 1 << 32], &[]), "too large"),
        ("strings without strings", tensor("w", STRING, &[1 << 40], &[]), "strings"),
        ("an unknown type", tensor("w", 99, &[1], &[0; 4]), "element type 99"),
    ] {
        refused(&server, what, &add(weight), &[], &[says]);
    }
    let inside = constant("value", &tensor("w", FLOAT, &[1 << 20], &[0; 4]));
    let graph = Graph::one(node("Constant", &[], &["y"], &[inside]), Vec::new());
    refused(&server, "a constant node that lies", &graph, &[], &["needs 4194304"]);

    let external = |location: &str, offset: u64, length: u64| {
        let entry = |key: &str, value: &str| Message::default().text(1, key).text(2, value);
        let dims = Message::default().number(1, 4).number(2, FLOAT).text(8, "w");
        let place = [entry("location", location), entry("offset", &offset.to_string())];
        dims.messages(13, &place).message(13, &entry("length", &length.to_string())).number(14, 1)
    };
    for (what, weight, says) in [
        ("a file above", external("../../etc/passwd", 0, 16), "leaves the package"),
        ("an absolute file", external("/etc/passwd", 0, 16), "leaves the package"),
        ("an address in memory", external("*/_ORT_MEM_ADDR_/*", 0, 16), "not accepted in paths"),
        ("the graph itself", external("model.onnx", 0, 16), ".onnx"),
        ("a file that is not there", external("nowhere", 0, 16), "nowhere"),
        ("an offset that overflows", external("w", u64::MAX, 16), "overflows"),
        ("a length that lies", external("w", 0, 17), "needs 16"),
    ] {
        refused(&server, what, &add(weight), &[], &[says]);
    }

    let sparse = |dims: &[i64], index: i64| {
        let parts = Message::default().message(1, &tensor("w", FLOAT, &[1], &[0; 4])).message(2, &int64s("", &[index]));
        let sparse = dims.iter().fold(parts, |all, size| all.number(3, size.cast_unsigned()));
        Graph { sparse: vec![sparse], ..Graph::one(node("Add", &["x", "w"], &["y"], &[]), Vec::new()) }
    };
    refused(&server, "a sparse index outside", &sparse(&[4], 4), &[], &["outside"]);
    refused(&server, "a sparse index before", &sparse(&[4], -1), &[], &["outside"]);
    refused(&server, "sparse without end", &sparse(&[1 << 40, 1 << 40], 0), &[], &["too large"]);
    // Four numbers that stand for terabytes: what the runtime would make of them counts.
    refused(
        &server,
        "a small file of terabytes",
        &sparse(&[1 << 41], 0),
        &[],
        &["take more than", "first load failed"],
    );
}

#[tokio::test]
async fn constants_that_grow_while_a_model_loads() {
    let one = || tensor("one", FLOAT, &[1], &1.0_f32.to_le_bytes());
    for (op, inputs) in [("ConstantOfShape", &["size"][..]), ("Expand", &["one", "size"]), ("Tile", &["one", "size"])] {
        let nodes = vec![
            node(op, inputs, &["c"], &[]),
            node("ReduceMax", &["c"], &["m"], &[]),
            node("Add", &["x", "m"], &["y"], &[]),
        ];
        let of = |elements: i64| Graph {
            nodes: nodes.clone(),
            ..Graph::one(Message::default(), vec![int64s("size", &[elements]), one()])
        };
        let x = || json!([{ "name": "x", "ty": "f32", "dims": [1], "fill": 1 }]);
        // 4 TiB and more: either the import says so, or the run does.
        for elements in [1_i64 << 40, 1 << 62, i64::MAX] {
            let graph = of(elements);
            let folder = TempDir::new().unwrap();
            let server = Server::start();
            let output = server.cli(&["models", "add", "m", graph.save(folder.path(), &[]).to_str().unwrap()]);
            if output.status.success() {
                server.deploy_guest("nn", "hostile", json!({ "models": { "m": "m" } })).await;
                run(&server, x()).await.expect_err("no machine has that");
            } else {
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(text.contains("first load failed"), "{op} of {elements}: {text}");
            }
        }
        // 512 MiB, which each run makes anew: the library's arena has it twice at most, and the server takes 256 MiB.
        let server = serving(&of(1 << 27)).await;
        let mut taken = Vec::new();
        for _ in 0..4 {
            run(&server, x()).await.unwrap_or_else(|error| panic!("{op}: {error}"));
            taken.push(server.resident_bytes() >> 20);
        }
        assert!(taken.iter().all(|mib| *mib < 2 * 512 + 256) && taken[3] <= taken[1] + 64, "{op}: {taken:?} MiB");
    }
}

/// A server with `graph` as the model `m`, granted to `nn`.
async fn serving(graph: &Graph) -> Server {
    // What a run may hand out; what it makes on the way is bounded by nothing but memory.
    let server = Server::start_with(&[("MAYFLY_INFERENCE__OUTPUT_BYTES_MAX", "67108864")]);
    let folder = TempDir::new().unwrap();
    server.add_model("m", &graph.save(folder.path(), &[]));
    server
        .deploy_guest("nn", "hostile", json!({ "models": { "m": "m" }, "limits": { "deadline_ms_max": 20_000 } }))
        .await;
    server
}

/// What a large run took goes back when none has followed for some seconds; the next one of any size gives it.
async fn memory_returns(server: &Server, small_run: impl AsyncFn(), to_bytes: u64) {
    server
        .eventually("memory goes back", async || {
            tokio::time::sleep(Duration::from_secs(6)).await;
            small_run().await;
            server.resident_bytes() < to_bytes
        })
        .await;
}

/// One run with an int64 list as its input: the error's text, or none.
async fn run(server: &Server, inputs: Value) -> Result<(), String> {
    let plan = json!({ "model": "m", "inputs": inputs });
    let response = server.call(Method::POST, "/d/default/nn/nn").json(&plan).send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    assert_eq!(status, 200, "{plan}: {text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    match answer["steps"][0]["error"]["text"].as_str() {
        Some(text) => Err(text.to_owned()),
        None => Ok(()),
    }
}

#[tokio::test]
async fn sizes_that_a_caller_chooses() {
    let one = tensor("one", FLOAT, &[1], &1.0_f32.to_le_bytes());
    for (op, inputs) in [
        ("Expand", &["one", "size"][..]),
        ("Tile", &["one", "size"]),
        ("ConstantOfShape", &["size"]),
        ("Pad", &["one", "both"]),
    ] {
        let mut graph = Graph::one(node(op, inputs, &["y"], &[]), vec![one.clone()]);
        graph.inputs = vec![value("size", INT64, &[1])];
        if op == "Pad" {
            graph.nodes.insert(0, node("Concat", &["size", "size"], &["both"], &[integer("axis", 0)]));
        }
        let mut server = serving(&graph).await;
        let sized = |size: i64| json!([{ "name": "size", "ty": "i64", "dims": [1], "data_base64": base64(&size.to_le_bytes()) }]);
        run(&server, sized(4)).await.unwrap_or_else(|error| panic!("{op} of 4: {error}"));
        let resident = server.resident_bytes();
        for size in [-1, 1 << 40, 1 << 62, i64::MAX, i64::MIN] {
            let error = run(&server, sized(size)).await.expect_err("no machine has that");
            assert!(!error.contains('/'), "{op} of {size}: no path: {error}");
        }
        // 256 MiB, which the machine has and the limit of what is handed out does not allow.
        let error = run(&server, sized(1 << 26)).await.expect_err("more than output_bytes_max");
        assert!(error.contains("output_bytes_max"), "{op}: {error}");
        assert!(server.is_alive());
        memory_returns(&server, async || run(&server, sized(4)).await.unwrap(), resident + (128 << 20)).await;
    }
}

#[tokio::test]
async fn attention_that_does_not_fit_its_memory() {
    // Sequence lengths and the total come from the caller, as no exporter has it.
    let attributes = [integer("num_heads", 2), integer("kv_num_heads", 1)];
    let inputs = ["q", "k", "v", "pk", "pv", "lengths", "total"];
    let graph = Graph {
        nodes: vec![node_of("com.microsoft", "GroupQueryAttention", &inputs, &["y", "nk", "nv"], &attributes)],
        inputs: vec![
            value("q", FLOAT, &[1, 1, 16]),
            value("k", FLOAT, &[1, 1, 8]),
            value("v", FLOAT, &[1, 1, 8]),
            value("pk", FLOAT, &[1, 1, 4, 8]),
            value("pv", FLOAT, &[1, 1, 4, 8]),
            value("lengths", INT32, &[1]),
            value("total", INT32, &[1]),
        ],
        outputs: vec![value("y", FLOAT, &[1, 1, 16])],
        ..Graph::default()
    };
    let mut server = serving(&graph).await;
    let attempt = async |lengths: i32, total: i32| {
        let floats = |name: &str, dims: &[u32]| json!({ "name": name, "ty": "f32", "dims": dims, "fill": 1 });
        let number = |name: &str, value: i32| json!({ "name": name, "ty": "i32", "dims": [1], "data": [value] });
        let inputs = json!([
            floats("q", &[1, 1, 16]),
            floats("k", &[1, 1, 8]),
            floats("v", &[1, 1, 8]),
            floats("pk", &[1, 1, 4, 8]),
            floats("pv", &[1, 1, 4, 8]),
            number("lengths", lengths),
            number("total", total),
        ]);
        run(&server, inputs).await
    };
    attempt(3, 4).await.expect("it fits");
    let edges = [-1, i32::MIN, 4, 5, 1 << 20, 1 << 30, i32::MAX];
    for lengths in edges {
        for total in [4, 1 << 20, i32::MAX, -1] {
            attempt(lengths, total).await.expect_err("outside of the memory it has");
        }
    }
    attempt(3, 4).await.expect("it fits as before");
    assert!(server.is_alive());
}

#[test]
fn whole_numbers_that_a_caller_divides() {
    // The smallest number by -1 has no result, and the processor ends the process for it: known of ONNX Runtime 1.31.
    let server = Server::start();
    let divide = |op: &str, element_type: u64, divisor: Option<i64>| {
        let mut graph = Graph::one(node(op, &["x", "by"], &["y"], &[]), Vec::new());
        graph.inputs = vec![value("x", element_type, &[-1])];
        graph.outputs = vec![value("y", element_type, &[-2])];
        match divisor {
            Some(number) if element_type == INT64 => graph.weights.push(int64s("by", &[number])),
            Some(number) => {
                let raw = i32::try_from(number).unwrap().to_le_bytes();
                graph.weights.push(tensor("by", INT32, &[1], &raw));
            }
            None => graph.inputs.push(value("by", element_type, &[-1])),
        }
        graph
    };
    for op in ["Div", "Mod"] {
        for element_type in [INT32, INT64] {
            let says = &["divides whole numbers"];
            refused(&server, "a divisor from the caller", &divide(op, element_type, None), &[], says);
            refused(&server, "a divisor of -1", &divide(op, element_type, Some(-1)), &[], says);
            let folder = TempDir::new().unwrap();
            server.add_model("halves", &divide(op, element_type, Some(2)).save(folder.path(), &[]));
        }
    }
    let folder = TempDir::new().unwrap();
    let mut floats = divide("Div", FLOAT, None);
    floats.inputs = vec![value("x", FLOAT, &[-1]), value("by", FLOAT, &[-1])];
    server.add_model("floats", &floats.save(folder.path(), &[]));
    // Constants are divided while the model loads, in the child.
    let mut folded = divide("Div", INT64, Some(-1));
    folded.nodes = vec![
        node("Div", &["least", "by"], &["d"], &[]),
        node("Cast", &["d"], &["f"], &[integer("to", FLOAT)]),
        node("Add", &["x", "f"], &["y"], &[]),
    ];
    folded.inputs = vec![value("x", FLOAT, &[-1])];
    folded.outputs = vec![value("y", FLOAT, &[-2])];
    folded.weights.push(int64s("least", &[i64::MIN]));
    refused(&server, "a constant that has no result", &folded, &[], &["signal", "divides whole numbers"]);
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
