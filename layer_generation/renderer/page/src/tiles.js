// The tiles of a scene on the graphics side: fetched, made into meshes with their drape, a limited number kept.
import * as THREE from "three";
import { CHUNKS, DRAPE_PX, SIDE, TILE_PX, drapePlaces, pointsOf, trianglesOf } from "./geometry.js";

const MOST_TILES = 48; // of about 2 MB each
const FETCHES = 4;

const VERTEX = `
out vec2 place;
void main() {
  place = uv;
  gl_Position = projectionMatrix * modelViewMatrix * vec4(position, 1.0);
}`;
const FRAGMENT = `
uniform sampler2D drape;
uniform bool hole;
in vec2 place;
out vec4 colour;
void main() {
  vec4 here = texture(drape, place);
  if (hole && here.a < 0.5) discard;
  colour = vec4(here.rgb, 1.0);
}`;

export class Tiles {
  #known = new Map(); // in the order of their last use
  #scene = "";
  #places = drapePlaces();
  #whole = trianglesOf(null);

  /** Yields the tiles of a job one after the other, while the next are fetched. */
  async *of(job, plane) {
    const scene = JSON.stringify([job.tiles_at, job.plane, job.hole]);
    if (scene !== this.#scene) this.clear();
    this.#scene = scene;
    const coming = new Map();
    for (let index = 0, ahead = 0; index < job.tiles.length; index++) {
      for (; ahead < job.tiles.length && ahead < index + FETCHES; ahead++) {
        const name = job.tiles[ahead].join("/");
        const fetched = this.#known.has(name) ? null : bytesOf(`${job.tiles_at}${job.zoom}/${name}`);
        fetched?.catch(() => {}); // told where it is awaited
        coming.set(name, fetched);
      }
      const [x, y] = job.tiles[index];
      const name = `${x}/${y}`;
      const tile = this.#known.get(name) ?? this.#made(job, plane, x, y, await this.#bytes(job, name, coming));
      coming.delete(name);
      this.#known.delete(name);
      this.#known.set(name, tile);
      yield tile;
      this.#forget();
    }
  }

  clear() {
    for (const tile of this.#known.values()) tile.dispose();
    this.#known.clear();
  }

  get count() {
    return this.#known.size;
  }

  #bytes(job, name, coming) {
    return coming.get(name) ?? bytesOf(`${job.tiles_at}${job.zoom}/${name}`); // forgotten again meanwhile
  }

  #forget() {
    for (const [name, tile] of this.#known) {
      if (this.#known.size <= MOST_TILES) return;
      tile.dispose();
      this.#known.delete(name);
    }
  }

  #made(job, plane, x, y, data) {
    const heights = new Float32Array(data, 0, SIDE * SIDE);
    const drape = new Uint8Array(data, SIDE * SIDE * 4, DRAPE_PX * DRAPE_PX * 4);
    const texture = new THREE.DataTexture(drape, DRAPE_PX, DRAPE_PX, THREE.RGBAFormat);
    const filter = plane === null ? THREE.NearestFilter : THREE.LinearFilter;
    texture.minFilter = texture.magFilter = filter;
    texture.needsUpdate = true;
    const material = new THREE.ShaderMaterial({
      glslVersion: THREE.GLSL3,
      vertexShader: VERTEX,
      fragmentShader: FRAGMENT,
      uniforms: { drape: { value: texture }, hole: { value: job.hole } },
      side: THREE.DoubleSide,
    });
    if (plane === null) return flatTile(x, y, material, texture);
    const holes = job.hole && heights.some(Number.isNaN);
    const triangles = holes ? trianglesOf(heights) : { ...this.#whole, shared: true };
    return reliefTile(pointsOf(plane, job.zoom, x, y, heights), triangles, this.#places, material, texture);
  }
}

async function bytesOf(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`tile: ${await answer.text()}`);
  return answer.arrayBuffer();
}

/** A tile of an isometric view: a group of chunks that share their points. */
function reliefTile({ positions, origin, boxes }, { index, starts, shared }, places, material, texture) {
  const points = new THREE.BufferAttribute(positions, 3);
  const group = new THREE.Group();
  const parts = [];
  for (let chunk = 0; chunk < CHUNKS * CHUNKS; chunk++) {
    if (starts[chunk] === starts[chunk + 1]) continue;
    const part = new THREE.BufferGeometry();
    part.setAttribute("position", points);
    part.setAttribute("uv", places);
    part.setIndex(index);
    part.setDrawRange(starts[chunk], starts[chunk + 1] - starts[chunk]);
    const mesh = new THREE.Mesh(part, material);
    mesh.frustumCulled = false; // by `place`, which knows the boxes
    group.add(mesh);
    parts.push({ mesh, box: boxes[chunk] });
  }
  return {
    group,
    /** Moves the tile into a cell whose middle is given, in pixels; hides the chunks that are not in what is seen. */
    place(middle, seen) {
      const [right, up] = [origin.right - middle.right, origin.up - middle.up];
      group.position.set(right, up, origin.near - middle.near);
      for (const { mesh, box } of parts) {
        mesh.visible =
          box.left + right <= seen.right &&
          box.right + right >= seen.left &&
          box.bottom + up <= seen.top &&
          box.top + up >= seen.bottom;
      }
    },
    dispose() {
      // What is every tile's stays; the chunks' own points go with the first of them.
      for (const { mesh } of parts) {
        mesh.geometry.deleteAttribute("uv");
        if (shared) mesh.geometry.setIndex(null);
        mesh.geometry.dispose();
      }
      material.dispose();
      texture.dispose();
    },
  };
}

/** A tile of a top-down view: its drape, pixel for pixel. */
function flatTile(x, y, material, texture) {
  const part = new THREE.PlaneGeometry(TILE_PX, TILE_PX);
  const end = TILE_PX / DRAPE_PX;
  part.setAttribute("uv", new THREE.BufferAttribute(new Float32Array([0, 0, end, 0, 0, end, end, end]), 2));
  const group = new THREE.Mesh(part, material);
  group.frustumCulled = false;
  return {
    group,
    place(middle) {
      group.position.set((x + 0.5) * TILE_PX - middle.right, -(y + 0.5) * TILE_PX - middle.up, 0);
    },
    dispose() {
      part.dispose();
      material.dispose();
      texture.dispose();
    },
  };
}
