// The style of the map: sources and layers for one archive, in light or dark. Pure.

import { gaps, pictures, surfaces } from "./server.js";

const THEMES = {
  light: { background: "#dfe6ea", grid: "#46545d", label: "#2c363c", shadow: "#2d3640", highlight: "#ffffff", sky: "#a9c4d8", horizon: "#eef3f6" },
  dark: { background: "#12181d", grid: "#8fa1ad", label: "#d5dfe6", shadow: "#05080a", highlight: "#c9d6df", sky: "#16212b", horizon: "#33444f" },
};
const LIGHTS_DEG = [225, 270, 315, 360];
const ALTITUDES_DEG = [30, 30, 40, 30];
const STEPS_DEG = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30];
const UNBLURRED = { "raster-resampling": "nearest", "raster-fade-duration": 0 };
const STRENGTHS = [0.25, 0.4, 0.75, 0.35];

// `heights` and `sources` are the TileJSON of the terrain and of the lineage, either may be absent.
export function style({ archive, heights, lineage, sources, theme }) {
  const colours = THEMES[theme];
  return {
    version: 8,
    sources: {
      graticule: { type: "geojson", data: graticule([0, 0, 0, 0]) },
      ...(heights && demSources(archive, heights, colours)),
      ...(sources && { lineage: picture(lineage, sources, "png") }),
    },
    sky: {
      "sky-color": colours.sky,
      "horizon-color": colours.horizon,
      "fog-color": colours.horizon,
      "fog-ground-blend": 0.9,
      "sky-horizon-blend": 0.6,
    },
    layers: [
      { id: "background", type: "background", paint: { "background-color": colours.background } },
      ...(heights ? heightLayers(archive, heights, colours) : []),
      ...(sources ? [overlay()] : []),
      {
        id: "graticule",
        type: "line",
        source: "graticule",
        paint: { "line-color": colours.grid, "line-width": 0.6, "line-opacity": 0.35 },
      },
      {
        id: "degrees",
        type: "symbol",
        source: "graticule",
        layout: { "symbol-placement": "line", "symbol-spacing": 400, "text-pitch-alignment": "viewport", "text-field": ["get", "label"], "text-size": 11 },
        paint: { "text-color": colours.label, "text-halo-color": colours.background, "text-halo-width": 1.2, "text-opacity": 0.75 },
      },
    ],
  };
}

export const isPicture = (told) => !["terrarium", "mapbox", "lineage"].includes(told.encoding);

function demSources(archive, told, colours) {
  if (isPicture(told)) return { picture: picture(archive, told, told.format) };
  const dem = {
    type: "raster-dem",
    tiles: [surfaces(archive, told.format)],
    encoding: told.encoding,
    ...placed(told),
  };
  // Shading and 3-D want tiles of different zooms, so each has a source of its own.
  return {
    heights: dem,
    terrain: { ...dem, attribution: "" },
    ...(archive.gaps && { gaps: { type: "raster", tiles: [gaps(archive, colours.background)], ...placed(told), attribution: "" } }),
  };
}

function picture(archive, told, format) {
  return { type: "raster", tiles: [pictures(archive, format)], ...placed(told) };
}

function placed(told) {
  return {
    tileSize: told.tileSize ?? 512,
    minzoom: told.minzoom,
    maxzoom: told.maxzoom,
    bounds: told.bounds,
    attribution: told.attribution ?? "",
  };
}

function heightLayers(archive, told, colours) {
  if (isPicture(told)) return [{ id: "picture", type: "raster", source: "picture" }];
  return [
    { id: "colours", type: "color-relief", source: "heights" },
    { id: "hillshade", type: "hillshade", source: "heights", paint: hillshade(colours) },
    ...(archive.gaps ? [{ id: "gaps", type: "raster", source: "gaps", paint: UNBLURRED }] : []),
  ];
}

function hillshade({ shadow, highlight }) {
  const toned = (hex) => STRENGTHS.map((strength) => hex + Math.round(strength * 255).toString(16).padStart(2, "0"));
  return {
    "hillshade-method": "multidirectional",
    "hillshade-illumination-direction": LIGHTS_DEG,
    "hillshade-illumination-altitude": ALTITUDES_DEG,
    "hillshade-illumination-anchor": "map",
    "hillshade-shadow-color": toned(shadow),
    "hillshade-highlight-color": toned(highlight),
    "hillshade-exaggeration": 0.5,
  };
}

function overlay() {
  return {
    id: "lineage",
    type: "raster",
    source: "lineage",
    layout: { visibility: "none" },
    paint: UNBLURRED,
  };
}

// Meridians and parallels of a box [west, south, east, north], about six of each.
export function graticule([west, south, east, north]) {
  const step = STEPS_DEG.find((one) => Math.max(east - west, north - south) / one <= 8) ?? STEPS_DEG.at(-1);
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  const lines = [
    ...multiples(west, east, step).map((lon) => line(`${Math.abs(lon).toFixed(digits)}° ${lon < 0 ? "W" : "E"}`, [lon, south], [lon, north])),
    ...multiples(south, north, step).map((lat) => line(`${Math.abs(lat).toFixed(digits)}° ${lat < 0 ? "S" : "N"}`, [west, lat], [east, lat])),
  ];
  return { type: "FeatureCollection", features: lines };
}

const multiples = (first, last, step) =>
  Array.from({ length: Math.max(Math.floor(last / step) - Math.ceil(first / step) + 1, 0) }, (_, index) => (Math.ceil(first / step) + index) * step);

const line = (label, ...coordinates) => ({ type: "Feature", properties: { label }, geometry: { type: "LineString", coordinates } });
