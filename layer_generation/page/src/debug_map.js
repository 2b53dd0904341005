// The blocks of a layer on a canvas: inside Leaflet where that is bundled, else with a view of its own.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const STATUSES = data.statuses;
  const COLORS = { 1: [255, 99, 71], 2: [50, 205, 50], 3: [30, 144, 255] };
  const STEPS = { 1: "2x2 blocks", 2: "1x2 and 2x1 strips", 3: "single quadrants" };
  const TITLES = {
    pending: "pending", in_progress: "in progress", complete: "complete", error: "failed",
    blocked: "blocked by a failed one",
  };
  const OPACITY = { pending: 0.22, in_progress: 0.5, complete: 0.72, error: 0.85, blocked: 0.55 };
  const INK = { error: [26, 26, 26], blocked: [120, 126, 134] };
  const count = data.x.length;
  const rgba = ([r, g, b], a) => `rgba(${r},${g},${b},${a})`;
  const step = (i) => Math.floor(data.kind[i] / 100);
  const status = (i) => STATUSES[Math.floor(data.kind[i] / 10) % 10];
  const wide = (i) => ((data.kind[i] % 10) & 1) + 1;
  const high = (i) => ((data.kind[i] % 10) >> 1) + 1;

  // Where quadrants are: x and y of quadrants <-> the web-mercator square, 0..1 from its north-west corner

  const RADIANS = Math.PI / 180;
  const toWorld = (lat, lon) => [
    (lon + 180) / 360, 0.5 - Math.log(Math.tan(Math.PI / 4 + (lat * RADIANS) / 2)) / (2 * Math.PI)];
  const toLat = (y) => (2 * Math.atan(Math.exp((0.5 - y) * 2 * Math.PI)) - Math.PI / 2) / RADIANS;

  function mercator(geometry) {
    const size = 2 ** geometry.zoom;
    return {
      aligned: true,
      world: (x, y) => [x / size, y / size],
      quadrant: (x, y) => [x * size, y * size],
    };
  }

  function isometric(camera) {
    const metres = camera.view_height_m / camera.height_px;
    const stepX = camera.width_px * camera.tile_step, stepY = camera.height_px * camera.tile_step;
    const sin = Math.sin(camera.azimuth_deg * RADIANS), cos = Math.cos(camera.azimuth_deg * RADIANS);
    const tilt = Math.sin(camera.elevation_deg * RADIANS);
    const degree = 111111, degreeEast = degree * Math.cos(camera.seed_lat * RADIANS);
    return {
      aligned: false,
      // The corner of quadrant (x, y) that is its top left: the seed is the bottom right one of (0, 0).
      world(x, y) {
        const right = (x - 1) * stepX * metres, ahead = ((y - 1) * stepY * metres) / tilt;
        const east = right * cos + ahead * sin, north = -right * sin + ahead * cos;
        return toWorld(camera.seed_lat + north / degree, camera.seed_lon + east / degreeEast);
      },
      quadrant(x, y) {
        const east = (x * 360 - 180 - camera.seed_lon) * degreeEast;
        const north = (toLat(y) - camera.seed_lat) * degree;
        const right = east * cos - north * sin, ahead = east * sin + north * cos;
        return [right / metres / stepX + 1, (ahead * tilt) / metres / stepY + 1];
      },
    };
  }

  const place = data.geometry.type === "web-mercator" ? mercator(data.geometry) : isometric(data.geometry);

  const corners = new Float64Array(8 * count);
  const owner = new Map();
  const [minX, minY, maxX, maxY] = data.box || [0, 0, 0, 0];
  const key = (x, y) => (y - minY) * (maxX - minX + 1) + (x - minX);
  const extent = [Infinity, Infinity, -Infinity, -Infinity];
  for (let i = 0; i < count; i++) {
    const x = data.x[i], y = data.y[i], w = wide(i), h = high(i);
    [[x, y], [x + w, y], [x + w, y + h], [x, y + h]].forEach(([cx, cy], k) => {
      const [wx, wy] = place.world(cx, cy);
      corners[8 * i + 2 * k] = wx;
      corners[8 * i + 2 * k + 1] = wy;
      extent[0] = Math.min(extent[0], wx); extent[1] = Math.min(extent[1], wy);
      extent[2] = Math.max(extent[2], wx); extent[3] = Math.max(extent[3], wy);
    });
    for (let dy = 0; dy < h; dy++) for (let dx = 0; dx < w; dx++) owner.set(key(x + dx, y + dy), i);
  }
  const groups = new Map();
  for (let i = 0; i < count; i++) {
    const name = `${step(i)} ${status(i)}`;
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(i);
  }

  function blockAt(wx, wy) {
    const [x, y] = place.quadrant(wx, wy).map(Math.floor);
    if (x < minX || x > maxX || y < minY || y > maxY) return -1;
    return owner.get(key(x, y)) ?? -1;
  }

  // Drawing: `scale` pixels per world, `left` and `top` the world's corner in pixels of the canvas

  let picture = null, chosen = -1;

  function outline(ctx, view, i) {
    ctx.moveTo(corners[8 * i] * view.scale + view.left, corners[8 * i + 1] * view.scale + view.top);
    for (let k = 1; k < 4; k++) {
      ctx.lineTo(corners[8 * i + 2 * k] * view.scale + view.left, corners[8 * i + 2 * k + 1] * view.scale + view.top);
    }
    ctx.closePath();
  }

  function visible(view, width, height, i) {
    let left = Infinity, top = Infinity, right = -Infinity, bottom = -Infinity;
    for (let k = 0; k < 8; k += 2) {
      const x = corners[8 * i + k], y = corners[8 * i + k + 1];
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      if (y > bottom) bottom = y;
    }
    return right * view.scale + view.left >= 0 && left * view.scale + view.left <= width
      && bottom * view.scale + view.top >= 0 && top * view.scale + view.top <= height;
  }

  function style(ctx, name) {
    const [stepName, statusName] = name.split(" ");
    ctx.fillStyle = rgba(INK[statusName] || COLORS[stepName], OPACITY[statusName]);
    ctx.strokeStyle = rgba(COLORS[stepName].map((c) => c * 0.72), 1);
    ctx.lineWidth = statusName === "error" || statusName === "in_progress" ? 2.5 : 1;
    ctx.setLineDash(statusName === "blocked" ? [4, 3] : statusName === "in_progress" ? [7, 3] : []);
  }

  function signs(ctx, view, members, statusName) {
    ctx.setLineDash([]);
    ctx.lineWidth = 2;
    ctx.strokeStyle = statusName === "error" ? "#fff" : "#2b2f34";
    ctx.beginPath();
    for (const i of members) {
      const at = (k) => [corners[8 * i + 2 * k] * view.scale + view.left, corners[8 * i + 2 * k + 1] * view.scale + view.top];
      const middle = [0, 1].map((axis) => (at(0)[axis] + at(2)[axis]) / 2);
      const part = (k) => middle.map((value, axis) => value + (at(k)[axis] - value) * 0.45);
      for (const k of statusName === "error" ? [0, 1] : [1]) {
        ctx.moveTo(...part(k));
        ctx.lineTo(...part(k + 2));
      }
    }
    ctx.stroke();
  }

  function drawPicture(ctx, view) {
    if (!picture) return;
    const [x0, y0, x1, y1] = data.picture.box;
    const [a, b, c] = [[x0, y0], [x1 + 1, y0], [x0, y1 + 1]].map(([x, y]) => {
      const [wx, wy] = place.world(x, y);
      return [wx * view.scale + view.left, wy * view.scale + view.top];
    });
    ctx.save();
    ctx.transform((b[0] - a[0]) / picture.width, (b[1] - a[1]) / picture.width,
      (c[0] - a[0]) / picture.height, (c[1] - a[1]) / picture.height, a[0], a[1]);
    ctx.drawImage(picture, 0, 0);
    ctx.restore();
  }

  function draw(ctx, view, width, height) {
    ctx.clearRect(0, 0, width, height);
    drawPicture(ctx, view);
    if (!count) return;
    const across = Math.hypot(corners[2] - corners[0], corners[3] - corners[1]) * view.scale / wide(0);
    for (const [name, all] of groups) {
      const members = all.filter((i) => visible(view, width, height, i));
      const statusName = name.split(" ")[1];
      style(ctx, name);
      for (let first = 0; first < members.length; first += 400) {
        ctx.beginPath();
        for (const i of members.slice(first, first + 400)) outline(ctx, view, i);
        ctx.fill();
        if (across > 5) ctx.stroke();
      }
      if (across > 9 && (statusName === "error" || statusName === "blocked")) signs(ctx, view, members, statusName);
    }
    if (chosen >= 0) {
      ctx.setLineDash([]);
      ctx.lineWidth = 3;
      ctx.strokeStyle = "#111";
      ctx.beginPath();
      outline(ctx, view, chosen);
      ctx.stroke();
    }
    ctx.setLineDash([]);
  }

  function sized(canvas, width, height) {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const ctx = canvas.getContext("2d");
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    return ctx;
  }

  // Views: each tells where the pointer is in the world, and shows a box of the world

  function leafletView(container, onMove, onClick) {
    const L = window.L;
    const map = L.map(container, {
      crs: L.CRS.EPSG3857, maxZoom: 26, zoomSnap: 0.25, attributionControl: false, wheelPxPerZoomLevel: 90,
      zoomAnimation: false, fadeAnimation: false,
    });
    const world = (latlng) => toWorld(latlng.lat, latlng.lng);
    const latlng = (wx, wy) => L.latLng(toLat(wy), wx * 360 - 180);
    const Blocks = L.Layer.extend({
      onAdd() {
        this._canvas = L.DomUtil.create("canvas", "leaflet-layer", map.getPane("overlayPane"));
        map.on("moveend zoomend resize viewreset", this.redraw, this);
        this.redraw();
      },
      redraw() {
        const size = map.getSize();
        L.DomUtil.setPosition(this._canvas, map.containerPointToLayerPoint([0, 0]));
        const corner = map.latLngToContainerPoint(latlng(0, 0));
        const scale = 256 * 2 ** map.getZoom();
        draw(sized(this._canvas, size.x, size.y), { scale, left: corner.x, top: corner.y }, size.x, size.y);
      },
    });
    const fit = ([left, top, right, bottom]) =>
      map.fitBounds(L.latLngBounds(latlng(left, bottom), latlng(right, top)), { padding: [24, 24], animate: false });
    if (count) fit(extent);
    else map.setView([0, 0], 1);
    L.control.scale({ imperial: false }).addTo(map);
    const layer = new Blocks();
    layer.addTo(map);
    map.on("mousemove", (event) => onMove(...world(event.latlng)));
    map.on("click", (event) => onClick(...world(event.latlng)));
    return { redraw: () => layer.redraw(), fit, kind: "leaflet", middle: () => world(map.getCenter()),
      screen: (wx, wy) => { const p = map.latLngToContainerPoint(latlng(wx, wy)); return [p.x, p.y]; } };
  }

  function plainView(container, onMove, onClick) {
    const canvas = container.appendChild(document.createElement("canvas"));
    const view = { scale: 256, left: 0, top: 0 };
    const redraw = () => {
      const { clientWidth, clientHeight } = container;
      draw(sized(canvas, clientWidth, clientHeight), view, clientWidth, clientHeight);
    };
    const fit = ([left, top, right, bottom]) => {
      const { clientWidth, clientHeight } = container;
      view.scale = Math.min((clientWidth - 48) / (right - left), (clientHeight - 48) / (bottom - top));
      view.left = clientWidth / 2 - ((left + right) / 2) * view.scale;
      view.top = clientHeight / 2 - ((top + bottom) / 2) * view.scale;
      redraw();
    };
    const world = (event) => [(event.offsetX - view.left) / view.scale, (event.offsetY - view.top) / view.scale];
    let drag = null;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      drag = { x: event.offsetX, y: event.offsetY, moved: false };
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!drag) return onMove(...world(event));
      const dx = event.offsetX - drag.x, dy = event.offsetY - drag.y;
      if (!drag.moved && Math.hypot(dx, dy) < 4) return undefined;
      drag = { x: event.offsetX, y: event.offsetY, moved: true };
      view.left += dx;
      view.top += dy;
      return redraw();
    });
    canvas.addEventListener("pointerup", (event) => {
      if (drag && !drag.moved) onClick(...world(event));
      drag = null;
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const [wx, wy] = world(event);
      view.scale *= 2 ** (-event.deltaY / 240);
      view.left = event.offsetX - wx * view.scale;
      view.top = event.offsetY - wy * view.scale;
      redraw();
    }, { passive: false });
    window.addEventListener("resize", redraw);
    if (count) fit(extent);
    else redraw();
    const middle = () => [
      (container.clientWidth / 2 - view.left) / view.scale, (container.clientHeight / 2 - view.top) / view.scale];
    return { redraw, fit, kind: "plain", middle, screen: (wx, wy) => [wx * view.scale + view.left, wy * view.scale + view.top] };
  }

  // Words beside the map; every text is set as text

  const element = (id) => document.getElementById(id);
  const made = (tag, text, parent) => {
    const one = document.createElement(tag);
    if (text !== undefined) one.textContent = text;
    if (parent) parent.append(one);
    return one;
  };

  // The failed blocks that a block waits for, directly or not, nearest first.
  function causes(i) {
    const seen = new Set([i]), found = [], next = [i];
    while (next.length) {
      for (const other of data.waits[next.shift()] || []) {
        if (seen.has(other)) continue;
        seen.add(other);
        if (status(other) === "error") found.push(other);
        else next.push(other);
      }
    }
    return found;
  }

  const message = (i) => (data.text[i] >= 0 ? data.texts[data.text[i]] : "no message");

  function facts(i) {
    const [wx, wy] = place.world(data.x[i] + wide(i) / 2, data.y[i] + high(i) / 2);
    const waits = data.waits[i] || [];
    const listed = waits.slice(0, 12).map((other) => `${data.id[other]} (${TITLES[status(other)]})`);
    if (waits.length > 12) listed.push(`and ${waits.length - 12} more`);
    const rows = [
      ["id", data.id[i]],
      ["quadrant", `${data.x[i]}, ${data.y[i]}`],
      ["type", `${wide(i)}x${high(i)}`],
      ["step", `${step(i)}: ${STEPS[step(i)]}`],
      ["status", TITLES[status(i)]],
      ["attempts", data.attempts[i]],
      ["middle", `${toLat(wy).toFixed(5)}, ${(wx * 360 - 180).toFixed(5)}`],
    ];
    if (data.model[i] >= 0) rows.push(["model", data.models[data.model[i]]]);
    if (data.text[i] >= 0) rows.push([status(i) === "error" ? "error" : "last trouble", data.texts[data.text[i]]]);
    if (data.reason[i] >= 0) rows.push(["less context", data.texts[data.reason[i]]]);
    if (listed.length) rows.push(["waits for", listed.join(", ")]);
    if (status(i) !== "blocked") return rows;
    const failed = causes(i);
    for (const one of failed.slice(0, 3)) {
      rows.push(["blocked by", `${data.id[one]} at ${data.x[one]},${data.y[one]}: ${message(one)}`]);
    }
    if (failed.length > 3) rows.push(["", `and ${failed.length - 3} more failed ones`]);
    return rows;
  }

  function tell(i) {
    const list = element("block");
    list.replaceChildren();
    list.hidden = i < 0;
    element("hint").hidden = i >= 0;
    if (i < 0) return;
    for (const [name, value] of facts(i)) {
      made("dt", name, list);
      made("dd", String(value), list);
    }
  }

  function swatch(name, parent) {
    const canvas = parent.insertBefore(document.createElement("canvas"), parent.firstChild);
    const ctx = sized(canvas, 22, 16);
    style(ctx, name);
    ctx.fillRect(2, 2, 18, 12);
    ctx.strokeRect(2, 2, 18, 12);
    const statusName = name.split(" ")[1];
    if (statusName !== "error" && statusName !== "blocked") return;
    ctx.setLineDash([]);
    ctx.lineWidth = 1.5;
    ctx.strokeStyle = statusName === "error" ? "#fff" : "#2b2f34";
    ctx.beginPath();
    ctx.moveTo(16, 5); ctx.lineTo(6, 11);
    if (statusName === "error") { ctx.moveTo(6, 5); ctx.lineTo(16, 11); }
    ctx.stroke();
  }

  function statistics() {
    const table = element("stats");
    const head = made("tr", undefined, made("thead", undefined, table));
    made("th", "", head);
    for (const one of [1, 2, 3]) made("th", `step ${one}`, head);
    made("th", "all", head);
    const body = made("tbody", undefined, table);
    const sum = (values) => values.reduce((a, b) => a + b, 0);
    const row = (title, counts, parent) => {
      const line = made("tr", undefined, parent);
      made("th", title, line);
      for (const value of [...counts, sum(counts)]) made("td", String(value), line);
      return counts;
    };
    const short = { ...TITLES, blocked: "blocked" };
    const rows = STATUSES.map((name) => row(short[name], [1, 2, 3].map((one) => data.stats[one][name] || 0), body));
    const totals = row("all", [0, 1, 2].map((column) => sum(rows.map((one) => one[column]))), made("tfoot", undefined, table));
    const done = sum(rows[STATUSES.indexOf("complete")]), all = sum(totals);
    const less = data.reason.filter((one) => one >= 0).length;
    element("what").textContent =
      `${all} blocks over ${data.source}, ${done} complete (${all ? Math.floor((100 * done) / all) : 0}%)` +
      (less ? `; ${less} with less context` : "");
  }

  function legend() {
    const list = element("legend");
    for (const one of [1, 2, 3]) swatch(`${one} complete`, made("li", `step ${one}: ${STEPS[one]}`, list));
    for (const name of STATUSES) swatch(`1 ${name}`, made("li", TITLES[name], list));
  }

  function failures(view) {
    const failed = [];
    for (let i = 0; i < count && failed.length <= 200; i++) if (status(i) === "error") failed.push(i);
    element("failures").hidden = !failed.length;
    for (const i of failed.slice(0, 200)) {
      const button = made("button", `${data.id[i]} at ${data.x[i]},${data.y[i]}: ${message(i)}`, made("li", undefined, element("errors")));
      button.addEventListener("click", () => {
        choose(i);
        const [left, top] = place.world(data.x[i] - 4, data.y[i] - 4);
        const [right, bottom] = place.world(data.x[i] + 6, data.y[i] + 6);
        view.fit([Math.min(left, right), Math.min(top, bottom), Math.max(left, right), Math.max(top, bottom)]);
      });
    }
    if (failed.length > 200) made("li", "and more", element("errors"));
  }

  element("name").textContent = data.name;
  element("credit").textContent = data.credit;
  element("empty").hidden = count > 0;
  statistics();
  legend();
  function choose(i) {
    chosen = i;
    tell(i);
    view.redraw();
  }

  // With the map in focus Enter chooses the block in its middle, arrows go on to the one beside, Escape ends it.
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = ARROWS[event.key];
    if (event.key === "Enter" && chosen < 0) choose(blockAt(...view.middle()));
    else if (event.key === "Escape" && chosen >= 0) choose(-1);
    else if (arrow && chosen >= 0) {
      const [x, y] = [data.x[chosen], data.y[chosen]];
      const beside = [x + (arrow[0] > 0 ? wide(chosen) : arrow[0]), y + (arrow[1] > 0 ? high(chosen) : arrow[1])];
      const found = beside[0] < minX || beside[0] > maxX ? undefined : owner.get(key(...beside));
      if (found !== undefined) choose(found);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
  element("map").addEventListener("keydown", onKey, true);

  const onMove = (wx, wy) => { if (chosen < 0) tell(blockAt(wx, wy)); };
  const onClick = (wx, wy) => {
    const found = blockAt(wx, wy);
    choose(found === chosen ? -1 : found);
  };
  const view = (window.L ? leafletView : plainView)(element("map"), onMove, onClick);
  failures(view);
  if (data.picture) {
    const image = new Image();
    image.onload = () => { picture = image; view.redraw(); };
    image.src = data.picture.src;
  }
  window.debugMap = { view, count, place, blockAt, facts, corners: (i) => Array.from(corners.slice(8 * i, 8 * i + 8)) };
})();
