export default function UsagePage(_: { id?: string; tab?: string }) {
  return <main id="content" class="content" />;
}
