// The map as Leaflet has it: one unit is one quadrant, x to the right, y down.
import L from "leaflet";

export const FULL = 9; // the zoom at which a quadrant has its 512 px
const GRID = L.extend({}, L.CRS.Simple, { transformation: new L.Transformation(1, 0, 1, 0) });

export const map = L.map("map", {
  crs: GRID,
  attributionControl: false,
  zoomControl: false,
  boxZoom: false,
  doubleClickZoom: false,
  keyboard: false,
  minZoom: -3,
  maxZoom: 11,
  zoomSnap: 0.25,
  zoomDelta: 1,
  wheelPxPerZoomLevel: 90,
  maxBoundsViscosity: 0.8,
});

export const side = () => map.options.crs.scale(map.getZoom()); // of a quadrant, in pixels of the screen
export const cornerOf = (x, y) => map.latLngToContainerPoint([y, x]);

export function quadrantAt(event) {
  const { lat, lng } = map.mouseEventToLatLng(event);
  return [Math.floor(lng), Math.floor(lat)];
}

// The quadrants in view: left, top, right, bottom.
export function view() {
  const { x: width, y: height } = map.getSize();
  const from = map.containerPointToLatLng([0, 0]);
  const to = map.containerPointToLatLng([width, height]);
  return [Math.floor(from.lng), Math.floor(from.lat), Math.floor(to.lng), Math.floor(to.lat)];
}
