// A job request as the YAML that `madang run -f` takes. Only what JSON can hold.

const PLAIN = /^[A-Za-z_./@][\w ./@+=-]*$/;
const WORDS = new Set(['true', 'false', 'null', 'yes', 'no', 'on', 'off', '~', 'y', 'n']);

function scalar(value: unknown): string {
  if (typeof value !== 'string') return JSON.stringify(value);
  const plain = PLAIN.test(value) && !WORDS.has(value.toLowerCase()) && value === value.trim();
  return plain ? value : JSON.stringify(value);
}

export function yaml(value: Record<string, unknown>, indent = ''): string {
  return Object.entries(value)
    .filter(([, one]) => one !== null && one !== '')
    .map(([key, one]) => {
      if (Array.isArray(one)) return `${indent}${key}: [${one.map(scalar).join(', ')}]\n`;
      if (typeof one === 'object') {
        const inside = yaml(one as Record<string, unknown>, `${indent}  `);
        return inside ? `${indent}${key}:\n${inside}` : '';
      }
      return `${indent}${key}: ${scalar(one)}\n`;
    })
    .join('');
}
