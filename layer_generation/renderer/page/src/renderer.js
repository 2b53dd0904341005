// Draws cells of 512 px of a picture's plane on request: `renderer.draw(job)`, one at a time.
//
// A job says what is seen, which part of the cell is wanted, which tiles lie in it and where the pixels go. The promise is kept once every tile was
// fetched and drawn and the pixels were taken; it is broken where anything failed, or the graphics context was lost.
import * as THREE from "three";
import { Plane } from "./geometry.js";
import { Tiles } from "./tiles.js";

const CELL_PX = 512;
THREE.ColorManagement.enabled = false;

const GATHER_VERTEX = `void main() { gl_Position = vec4(position.xy, 0.0, 1.0); }`;
// The mean of a pixel's samples, of those that were drawn; rows from the top, as pictures have them.
const GATHER_FRAGMENT = `
uniform sampler2D drawn;
uniform int samples;
out vec4 colour;
void main() {
  ivec2 here = ivec2(gl_FragCoord.x, ${CELL_PX} - 1 - int(gl_FragCoord.y)) * samples;
  vec3 sum = vec3(0.0);
  float there = 0.0;
  for (int row = 0; row < samples; row++) {
    for (int col = 0; col < samples; col++) {
      vec4 one = floor(texelFetch(drawn, here + ivec2(col, row), 0) * 255.0 + 0.5);
      sum += one.a > 0.0 ? one.rgb : vec3(0.0);
      there += one.a > 0.0 ? 1.0 : 0.0;
    }
  }
  vec3 mean = floor(sum / max(there, 1.0) + 0.5);
  colour = vec4(mean, floor(255.0 * there / float(samples * samples) + 0.5)) / 255.0;
}`;

class Drawing {
  #tiles = new Tiles();
  #stage = new THREE.Scene();
  #camera = new THREE.OrthographicCamera(-CELL_PX / 2, CELL_PX / 2, CELL_PX / 2, -CELL_PX / 2, -1, 1);
  #targets = new Map();
  #picture = target(CELL_PX, false);
  #gathering;

  constructor() {
    const canvas = document.createElement("canvas");
    canvas.addEventListener("webglcontextlost", () => (this.lost = true));
    this.lost = false;
    this.webgl = new THREE.WebGLRenderer({ canvas, antialias: false, alpha: true });
    this.webgl.outputColorSpace = THREE.LinearSRGBColorSpace; // colours stay the numbers that they are
    this.webgl.autoClear = false;
    this.webgl.info.autoReset = false;
    this.#gathering = new THREE.Mesh(
      new THREE.BufferGeometry().setAttribute(
        "position",
        new THREE.BufferAttribute(new Float32Array([-1, -1, 0, 3, -1, 0, -1, 3, 0]), 3),
      ),
      new THREE.ShaderMaterial({
        glslVersion: THREE.GLSL3,
        vertexShader: GATHER_VERTEX,
        fragmentShader: GATHER_FRAGMENT,
        uniforms: { drawn: { value: null }, samples: { value: 1 } },
        depthTest: false,
      }),
    );
    this.#gathering.frustumCulled = false;
  }

  /** Draws the window of a cell that is wanted and posts its pixels, RGBA row by row from the top. */
  async draw(job) {
    this.#check();
    const plane = job.plane === null ? null : new Plane(job.plane);
    const drawn = this.#target(job.samples);
    const half = CELL_PX / 2;
    const middle = { right: job.left + half, up: -(job.top + half), near: job.near };
    const window = { left: job.window[0], top: job.window[1], width: job.window[2], height: job.window[3] };
    const seen = {
      left: window.left - half,
      right: window.left + window.width - half,
      bottom: half - window.top - window.height,
      top: half - window.top,
    };
    this.webgl.info.reset();
    this.#setDepth(job.reach);
    limit(drawn, window.left, CELL_PX - window.top - window.height, window, job.samples);
    this.webgl.setRenderTarget(drawn);
    const [red, green, blue] = job.background;
    this.webgl.setClearColor(new THREE.Color(red / 255, green / 255, blue / 255), job.hole ? 0 : 1);
    this.webgl.clear();
    for await (const tile of this.#tiles.of(job, plane)) {
      tile.place(middle, seen);
      this.#stage.add(tile.group);
      this.webgl.setRenderTarget(drawn);
      this.webgl.render(this.#stage, this.#camera);
      this.#stage.remove(tile.group);
    }
    const pixels = this.#gather(drawn, window, job.samples);
    this.#check();
    const sent = await fetch(job.answer, { method: "POST", body: pixels });
    if (!sent.ok) throw new Error(`the pixels were not taken: ${await sent.text()}`);
    return { triangles: this.webgl.info.render.triangles, tiles: job.tiles.length, kept: this.#tiles.count };
  }

  #gather(drawn, { left, top, width, height }, samples) {
    const pixels = new Uint8Array(width * height * 4);
    const { uniforms } = this.#gathering.material;
    uniforms.drawn.value = drawn.texture;
    uniforms.samples.value = samples;
    limit(this.#picture, left, top, { width, height }, 1);
    this.webgl.setRenderTarget(this.#picture);
    this.webgl.render(this.#gathering, this.#camera);
    this.webgl.readRenderTargetPixels(this.#picture, left, top, width, height, pixels);
    return pixels;
  }

  #setDepth(reach) {
    if (this.#camera.far === reach) return;
    this.#camera.near = -reach;
    this.#camera.far = reach;
    this.#camera.updateProjectionMatrix();
  }

  #target(samples) {
    if (!this.#targets.has(samples)) this.#targets.set(samples, target(CELL_PX * samples, true));
    return this.#targets.get(samples);
  }

  #check() {
    if (this.lost || this.webgl.getContext().isContextLost()) throw new Error("the graphics context is lost");
  }
}

function target(side, depthBuffer) {
  const filters = { minFilter: THREE.NearestFilter, magFilter: THREE.NearestFilter };
  return new THREE.WebGLRenderTarget(side, side, { ...filters, depthBuffer });
}

function limit(drawn, left, bottom, { width, height }, samples) {
  drawn.scissor.set(left * samples, bottom * samples, width * samples, height * samples);
  drawn.scissorTest = true;
}

window.renderer = new Drawing();
