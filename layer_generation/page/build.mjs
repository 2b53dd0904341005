// Puts Leaflet into ../static: `node build.mjs`. Installs the locked package first where that was not done.
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const page = dirname(fileURLToPath(import.meta.url));
const bundle = join(page, "..", "static");
const scratch = `${bundle}.part`;
const packages = join(page, "node_modules");

const changed = (path) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;

if (changed(join(packages, ".package-lock.json")) < changed(join(page, "package-lock.json"))) {
  const options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
  try {
    execFileSync("npm", ["ci", ...options], { cwd: page, stdio: ["ignore", "ignore", "inherit"] });
  } catch (error) {
    console.error(`layer page: npm did not install the package of package-lock.json: ${error.message}`);
    process.exit(1);
  }
}

const leaflet = join(packages, "leaflet");
rmSync(scratch, { recursive: true, force: true });
mkdirSync(scratch);
copyFileSync(join(leaflet, "dist", "leaflet.js"), join(scratch, "leaflet.js"));
copyFileSync(join(leaflet, "dist", "leaflet.css"), join(scratch, "leaflet.css"));
copyFileSync(join(leaflet, "LICENSE"), join(scratch, "leaflet-LICENSE.txt"));
rmSync(bundle, { recursive: true, force: true });
renameSync(scratch, bundle);

const { version } = JSON.parse(readFileSync(join(leaflet, "package.json"), "utf8"));
console.log(`layer page: has Leaflet ${version}`);
