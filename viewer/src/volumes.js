// The volumes that the page holds: compressed NIfTI files of 16-bit integers, as base64.

const HEADER_BYTES = 352;

async function decompressed(text) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i += 1) bytes[i] = letters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

// One volume; `file` and `steps` are there after `load`.
export class Volume {
  constructor(settings) {
    Object.assign(this, settings);
    this.steps = null;
  }

  async load() {
    if (this.steps) return;
    const element = document.getElementById(`data-${this.name}`);
    this.file = await decompressed(element.textContent);
    const view = new DataView(this.file);
    this.size = [1, 2, 3].map((axis) => view.getInt16(40 + 2 * axis, true));
    this.steps = new Uint16Array(this.file, HEADER_BYTES);
  }

  // Text of the value at a voxel (right, anterior, superior), in the unit of the volume.
  textAt([x, y, z]) {
    if (!this.steps) return "...";
    const step = this.steps[x + this.size[0] * (y + this.size[1] * z)];
    return (step * this.step).toFixed(this.decimals);
  }

  // Coordinates (right, anterior, superior) of a voxel [mm].
  millimetres([x, y, z]) {
    return this.affine.slice(0, 3).map((row) => row[0] * x + row[1] * y + row[2] * z + row[3]);
  }
}
