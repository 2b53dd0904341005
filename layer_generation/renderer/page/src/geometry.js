// Where the points of a tile lie in the plane of a picture: right, up and towards the eye, in pixels.
//
// Everything is computed in double precision and set down on a grid of 1/32 px. Such numbers, the whole pixels that
// a tile is moved by and the halves of a cell are exact in single precision, so a point falls on the same place of the
// pixel grid in whatever cell it is drawn.
import * as THREE from "three";

export const TILE_PX = 512;
export const MESH_STEP = 2; // pixels of a tile from a point of its mesh to the next
export const SIDE = TILE_PX / MESH_STEP + 1; // points of a side; the last are the neighbours' first
export const CHUNKS = 8; // a side of a tile in parts that are drawn or left out
export const DRAPE_PX = TILE_PX + 1;
const QUADS = (SIDE - 1) / CHUNKS;
const METRES_PER_DEGREE = 111111;
const FINEST = 32;

const radians = (degrees) => (degrees * Math.PI) / 180;
const onGrid = (value) => Math.round(value * FINEST) / FINEST;

/** Places of the ground in the plane of an isometric camera, as sums of what columns and rows contribute. */
export class Plane {
  constructor({ lat, lon, azimuth_deg, elevation_deg, right_m, up_m }) {
    const [azimuth, elevation] = [radians(azimuth_deg), radians(elevation_deg)];
    this.lat = lat;
    this.lon = lon;
    this.perDegree = METRES_PER_DEGREE * Math.cos(radians(lat));
    this.sin = Math.sin(azimuth);
    this.cos = Math.cos(azimuth);
    this.right = 1 / right_m;
    this.up = -Math.sin(elevation) / up_m;
    this.away = Math.cos(elevation) / up_m;
    this.rise = Math.cos(elevation) / up_m; // of a metre of height
    this.sink = Math.sin(elevation) / up_m;
  }

  /** Metres to the east of the seed of the columns of a tile. */
  east(zoom, x, count, step) {
    return Float64Array.from({ length: count }, (_, index) => {
      const lon = ((x + (index * step + 0.5) / TILE_PX) / 2 ** zoom) * 360 - 180;
      return (lon - this.lon) * this.perDegree;
    });
  }

  /** Metres to the north of the seed of the rows of a tile. */
  north(zoom, y, count, step) {
    return Float64Array.from({ length: count }, (_, index) => {
      const share = (y + (index * step + 0.5) / TILE_PX) / 2 ** zoom;
      const lat = (Math.atan(Math.sinh(Math.PI * (1 - 2 * share))) * 180) / Math.PI;
      return (lat - this.lat) * METRES_PER_DEGREE;
    });
  }
}

/** The points of a tile's mesh around an origin of whole pixels, and the box of each chunk in the plane. */
export function pointsOf(plane, zoom, x, y, heights) {
  const east = plane.east(zoom, x, SIDE, MESH_STEP);
  const north = plane.north(zoom, y, SIDE, MESH_STEP);
  const origin = originOf(plane, east[0], north[0]);
  const positions = new Float32Array(SIDE * SIDE * 3);
  for (let row = 0, at = 0; row < SIDE; row++) {
    for (let col = 0; col < SIDE; col++, at += 3) {
      const raw = heights[row * SIDE + col];
      const height = raw > 0 ? raw : 0; // water and what is missing are level with the sea
      const forward = east[col] * plane.sin + north[row] * plane.cos;
      const right = (east[col] * plane.cos - north[row] * plane.sin) * plane.right;
      positions[at] = onGrid(right) - origin.right;
      positions[at + 1] = onGrid(forward * plane.up + height * plane.rise) - origin.up;
      positions[at + 2] = onGrid(-(forward * plane.away + height * plane.sink)) - origin.near;
    }
  }
  return { positions, origin, boxes: boxesOf(positions) };
}

function originOf(plane, east, north) {
  const forward = east * plane.sin + north * plane.cos;
  return {
    right: Math.round((east * plane.cos - north * plane.sin) * plane.right),
    up: Math.round(forward * plane.up),
    near: Math.round(-forward * plane.away),
  };
}

function boxesOf(positions) {
  const boxes = [];
  for (let down = 0; down < CHUNKS; down++) {
    for (let across = 0; across < CHUNKS; across++) {
      const box = { left: Infinity, right: -Infinity, bottom: Infinity, top: -Infinity };
      for (let row = down * QUADS; row <= (down + 1) * QUADS; row++) {
        for (let col = across * QUADS; col <= (across + 1) * QUADS; col++) {
          const at = (row * SIDE + col) * 3;
          box.left = Math.min(box.left, positions[at]);
          box.right = Math.max(box.right, positions[at]);
          box.bottom = Math.min(box.bottom, positions[at + 1]);
          box.top = Math.max(box.top, positions[at + 1]);
        }
      }
      boxes.push(box);
    }
  }
  return boxes;
}

/** The triangles of a mesh, chunk by chunk, and where each chunk's begin; without those that touch a missing point. */
export function trianglesOf(heights) {
  const indices = [];
  const starts = [0];
  const missing = (point) => heights !== null && Number.isNaN(heights[point]);
  for (let chunk = 0; chunk < CHUNKS * CHUNKS; chunk++) {
    const [top, left] = [Math.floor(chunk / CHUNKS) * QUADS, (chunk % CHUNKS) * QUADS];
    for (let row = top; row < top + QUADS; row++) {
      for (let col = left; col < left + QUADS; col++) {
        const [a, b] = [row * SIDE + col, row * SIDE + col + 1];
        const [c, d] = [a + SIDE, b + SIDE];
        if (missing(b) || missing(c)) continue;
        if (!missing(a)) indices.push(a, c, b);
        if (!missing(d)) indices.push(b, c, d);
      }
    }
    starts.push(indices.length);
  }
  return { index: new THREE.BufferAttribute(new Uint32Array(indices), 1), starts };
}

/** The place of each point of a mesh in the tile's drape. */
export function drapePlaces() {
  const places = new Float32Array(SIDE * SIDE * 2);
  for (let row = 0, at = 0; row < SIDE; row++) {
    for (let col = 0; col < SIDE; col++, at += 2) {
      places[at] = (col * MESH_STEP + 0.5) / DRAPE_PX;
      places[at + 1] = (row * MESH_STEP + 0.5) / DRAPE_PX;
    }
  }
  return new THREE.BufferAttribute(places, 2);
}
