// Shows the maps of a report in three planes, with a cross-hair. Where that is not possible, the
// page keeps its fixed slices and says why.
import { MULTIPLANAR_TYPE, Niivue, SHOW_RENDER, SLICE_TYPE } from "@niivue/niivue";

import { Volume } from "./volumes.js";

const AXES = [
  { id: "slice-x", name: "Sagittal", ends: "left to right" },
  { id: "slice-y", name: "Coronal", ends: "back to front" },
  { id: "slice-z", name: "Axial", ends: "foot to head" },
];
const WIDE = 620; // pixels at which the planes fit beside each other

function element(kind, attributes = {}, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in made && typeof value !== "string") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

class Viewer {
  constructor(root, settings) {
    this.root = root;
    this.tables = settings.tables;
    this.volumes = settings.volumes.map((volume) => new Volume(volume));
    this.voxel = [...settings.centre];
    this.shown = null;
    this.build(settings.leftOut);
  }

  build(leftOut) {
    this.canvas = element("canvas", { "aria-label": "three planes through the maps" });
    this.stage = element("div", { class: "stage" }, this.canvas);
    this.choice = element("select", { id: "volume" });
    for (const volume of this.volumes) {
      this.choice.append(element("option", { value: volume.name }, volume.label));
    }
    this.choice.addEventListener("change", () => this.show(this.choice.value));
    this.sliders = AXES.map((axis) => element("input", { type: "range", id: axis.id, min: "0" }));
    this.outputs = AXES.map((axis) => element("output", { for: axis.id }));
    const sliders = AXES.map((axis, n) =>
      element("label", { title: axis.ends }, axis.name, this.outputs[n], this.sliders[n]),
    );
    this.sliders.forEach((slider, axis) => {
      slider.addEventListener("input", () => {
        this.voxel[axis] = Number(slider.value);
        this.moved();
      });
    });
    this.low = element("input", { type: "number", id: "window-low", step: "any" });
    this.high = element("input", { type: "number", id: "window-high", step: "any" });
    for (const input of [this.low, this.high]) {
      input.addEventListener("change", () => this.setWindow());
    }
    const reset = element("button", { type: "button", id: "window-reset" }, "Reset");
    reset.addEventListener("click", () => {
      [this.low.value, this.high.value] = this.shown.window;
      this.setWindow();
    });
    this.smooth = element("input", { type: "checkbox", id: "smooth" });
    this.smooth.addEventListener("change", () => this.nv.setInterpolation(!this.smooth.checked));
    this.unit = element("span");
    this.bar = element("div");
    this.ends = element("p");
    this.cells = {};
    const table = element("dl");
    for (const volume of this.volumes) {
      const cell = element("dd", { id: `value-${volume.name}` });
      const row = element("div", {}, element("dt", {}, volume.label), cell);
      table.append(row);
      this.cells[volume.name] = { row, cell };
    }
    this.place = element("p", { class: "faint", id: "place" });
    const missing = leftOut.length
      ? [element("p", { class: "faint" }, `Too large for this page: ${leftOut.join(", ")}.`)]
      : [];
    this.root.append(
      element(
        "div",
        { class: "planes" },
        this.stage,
        element("div", { class: "bar" }, this.bar, this.ends),
        this.place,
      ),
      element("div", { class: "values" }, element("h3", {}, "Values at the cross-hair"), table),
      element(
        "div",
        { class: "side" },
        element("label", {}, "Map", this.choice),
        ...sliders,
        element(
          "div",
          { class: "window" },
          element("label", {}, "Window from", this.low),
          element("label", {}, "to ", this.unit, this.high),
          reset,
        ),
        element("label", { class: "check" }, this.smooth, "smooth between voxels"),
        ...missing,
      ),
    );
  }

  async start() {
    if (!this.canvas.getContext("webgl2")) throw new Error("this browser has no WebGL 2");
    this.root.hidden = false;
    this.fit();
    this.nv = new Niivue({
      logLevel: "silent",
      backColor: [0, 0, 0, 1],
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      isNearestInterpolation: true,
      multiplanarShowRender: SHOW_RENDER.NEVER,
      multiplanarLayout: MULTIPLANAR_TYPE.AUTO,
      isCornerOrientationText: false,
      crosshairColor: [0.35, 1, 0.35, 0.9],
      crosshairWidth: 1,
      crosshairWidthUnit: "percent",
      crosshairGap: 8,
      dragAndDropEnabled: false,
      isColorbar: false,
      loadingText: "",
    });
    await this.nv.attachToCanvas(this.canvas);
    for (const [name, table] of Object.entries(this.tables)) {
      const [R, G, B] = [0, 1, 2].map((channel) => table.map((colour) => colour[channel]));
      this.nv.addColormap(`mri2qmap ${name}`, { R, G, B, A: R.map(() => 255), I: R.map((_, n) => n) });
    }
    this.nv.setSliceType(SLICE_TYPE.MULTIPLANAR);
    this.nv.onLocationChange = (place) => this.pointed(place);
    this.nv.onIntensityChange = () => this.readWindow();
    await this.show(this.volumes[0].name);
    new ResizeObserver(() => this.fit()).observe(this.stage);
    document.getElementById("viewer-note").hidden = true;
    document.documentElement.dataset.viewer = "ready";
    for (const volume of this.volumes) {
      await volume.load();
      this.moved();
    }
    document.documentElement.dataset.viewer = "complete";
  }

  fit() {
    const width = this.stage.clientWidth;
    this.stage.style.height = `${Math.round(width > WIDE ? width * 0.38 : width)}px`;
  }

  async show(name) {
    const volume = this.volumes.find((each) => each.name === name);
    await volume.load();
    while (this.nv.volumes.length) this.nv.removeVolumeByIndex(0);
    await this.nv.loadFromArrayBuffer(volume.file.slice(0), `${volume.name}.nii`);
    this.shown = volume;
    const [image] = this.nv.volumes;
    image.colormap = `mri2qmap ${volume.colours}`;
    [this.low.value, this.high.value] = volume.window;
    this.unit.textContent = volume.unit ? `[${volume.unit}]` : "";
    this.bar.style.background = volume.gradient;
    this.sliders.forEach((slider, axis) => {
      slider.max = volume.size[axis] - 1;
    });
    for (const [each, { row }] of Object.entries(this.cells)) {
      row.className = each === name ? "shown" : "";
    }
    this.setWindow();
    this.moved();
  }

  setWindow() {
    const [image] = this.nv.volumes;
    const [low, high] = [this.low.value, this.high.value].map(Number);
    if (!(high > low)) {
      this.readWindow();
      return;
    }
    [image.cal_min, image.cal_max] = [low, high];
    this.nv.updateGLVolume();
    this.label();
  }

  readWindow() {
    const [image] = this.nv.volumes;
    const digits = this.shown.decimals;
    this.low.value = Number(image.cal_min.toFixed(digits));
    this.high.value = Number(image.cal_max.toFixed(digits));
    this.label();
  }

  label() {
    const unit = this.shown.unit ? ` ${this.shown.unit}` : "";
    const ends = [this.low.value, `${this.high.value}${unit}`];
    this.ends.replaceChildren(...ends.map((text) => element("span", {}, text)));
  }

  // The cross-hair was set with the pointer.
  pointed(place) {
    if (!place.vox) return;
    const size = this.shown.size;
    this.voxel = [0, 1, 2].map((n) => Math.min(size[n] - 1, Math.max(0, Math.round(place.vox[n]))));
    this.report();
  }

  // The cross-hair was set with a slider, or the volume was changed.
  moved() {
    this.nv.scene.crosshairPos = this.nv.vox2frac(this.voxel);
    this.nv.drawScene();
    this.report();
  }

  report() {
    AXES.forEach((_, axis) => {
      this.sliders[axis].value = this.voxel[axis];
      this.outputs[axis].textContent = `${this.voxel[axis] + 1} of ${this.shown.size[axis]}`;
    });
    for (const volume of this.volumes) {
      const unit = volume.unit ? ` ${volume.unit}` : "";
      this.cells[volume.name].cell.textContent = `${volume.textAt(this.voxel)}${unit}`;
    }
    const [right, anterior, superior] = this.shown.millimetres(this.voxel);
    const words = [
      [right, "right", "left"],
      [anterior, "anterior", "posterior"],
      [superior, "superior", "inferior"],
    ].map(([mm, positive, negative]) => `${Math.abs(mm).toFixed(1)} mm ${mm < 0 ? negative : positive}`);
    this.place.textContent = `Cross-hair: ${words.join(", ")} of the isocentre. Click or drag to move it; turn the wheel to change slices.`;
  }
}

async function start() {
  const root = document.getElementById("viewer");
  const settings = JSON.parse(document.getElementById("viewer-settings").textContent);
  try {
    await new Viewer(root, settings).start();
  } catch (error) {
    root.hidden = true;
    const note = document.getElementById("viewer-note");
    note.textContent = `The interactive viewer could not start (${error.message}): these are fixed slices.`;
    note.hidden = false;
    document.documentElement.dataset.viewer = "failed";
  }
}

start();
