export DAGSTER_HOME := justfile_directory()
export FUSI_STATE_DIR := justfile_directory() / "data/dagster"
export FUSI_COMPUTE_LOGS := justfile_directory() / "data/logs"
export FUSI_LAYERS_DIR := env("FUSI_LAYERS_DIR", justfile_directory() / "layers")
export FUSI_LAYER_REGION := env("FUSI_LAYER_REGION", "36")
python := justfile_directory() / ".venv/bin/python"

# Show the recipes
default:
    @just --list

# Make the environment from the pinned versions
setup:
    uv venv -q --allow-existing .venv
    uv pip install -q --python {{python}} --require-hashes -r requirements.lock
    uv pip install -q --python {{python}} --no-deps -e .
    @command -v npm >/dev/null || echo "pages: not built, because npm is missing; without it there is no map in fusi serve, no page of fusi app, no isometric map"
    @! command -v npm >/dev/null || node pages.mjs || echo "go on without; just pages tries again"

# Bundle the pages with their libraries: [viewer] [layer-page] [renderer-page] [app-page], all by default
pages *NAMES:
    @node pages.mjs {{NAMES}}

# Make output/demo.pmtiles from a real elevation model
demo: setup
    {{python}} examples/demo.py

# Open the Dagster UI on http://127.0.0.1:3000
dev: setup
    {{python}} -m fusi_pipeline.defs.launch prepare
    .venv/bin/dagster dev --host 127.0.0.1 --port 3000

# Make the demo's archive through Dagster, without the UI
materialize: setup
    {{python}} examples/demo.py --sources-only
    {{python}} -m fusi_pipeline.defs.launch materialize

# Make output/layers/demo.pmtiles in one Dagster run, without the UI: terrain, map, plan, regions, archive
layer-demo: setup
    {{python}} -m fusi_pipeline.defs.launch prepare
    {{python}} examples/layer_demo.py

# Make a layer in one Dagster run: LAYER [--zoom Z] [--region N] [--source NAME]... [--archive FILE]
layer-from-rasters *ARGS: setup
    {{python}} -m fusi_pipeline.defs.launch prepare
    {{python}} -m layer_generation.launch from-rasters {{ARGS}}

# Bring layers from their maps to their archives in this shell, region by region in order
layer-materialize *ARGS: setup
    {{python}} -m fusi_pipeline.defs.launch prepare
    {{python}} -m layer_generation.launch materialize {{ARGS}}

# Ask the daemon for what is missing or failed of layers: [LAYER]... [--region KEY]... [--from-sources]
layer-backfill *ARGS:
    {{python}} -m layer_generation.launch backfill {{ARGS}}

# Check style, types, import contracts and behaviour
test: setup
    {{python}} -m ruff check .
    {{python}} -m ruff format --check .
    {{python}} -m mypy
    .venv/bin/lint-imports
    {{python}} -m pytest

# Draw with real diffusion pipelines on the processor, in an environment of their own (6 GB)
test-diffusion:
    uv venv -q --allow-existing .cache/diffusion
    uv pip install -q --python .cache/diffusion/bin/python --require-hashes -r requirements-diffusion.lock
    uv pip install -q --python .cache/diffusion/bin/python --no-deps -e .
    OMP_NUM_THREADS=1 .cache/diffusion/bin/python -m pytest tests/test_image_diffusers.py

# Measure everything in benchmarks/; write its results and the table in the README: [--quick] [--only NAME...]
bench *ARGS: setup
    {{python}} benchmarks/run_all.py {{ARGS}}

# Measure fusi's WebP encoder against libwebp, in CPU and bytes, on the same tiles in turn
bench-encoder *ARGS: setup
    {{python}} benchmarks/encoder.py {{ARGS}}

# Write the pinned versions again, after a change of dependencies
lock:
    uv pip compile -q pyproject.toml --extra browser --extra demo --extra geoparquet --group dev --universal --generate-hashes --no-header -o requirements.lock
    uv pip compile -q pyproject.toml --extra diffusion --group dev -c requirements.lock --universal --generate-hashes --no-header -o requirements-diffusion.lock
